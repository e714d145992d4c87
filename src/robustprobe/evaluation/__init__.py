"""From a suite to results: plan, attack, judge, collect, check and store."""
