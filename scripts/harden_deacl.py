"""Harden a bundled encoder with DeACL (Zhang et al., ECCV 2022), labels unused.

The student starts as the frozen teacher f and maximises cos(f_R(x), f(x)) + 2 cos(f_R(x_adv), f_R(x)) on the class
token, where x_adv comes from EmbedAttack on the student with cosine distance to the teacher, 5 steps of 2/255 at 8/255.

The bundled encoders were hardened by these two commands, in 6 and 8 minutes on CPU cores that did other work as well.
A checkpoint is written every 50 steps; the same command continues from it.

    BUNDLED=src/robustprobe/assets/encoders
    python scripts/harden_deacl.py $BUNDLED/scenes --data scenes --out training/scenes-deacl
    python scripts/harden_deacl.py $BUNDLED/photos --data photos --data-root ../shared/data --out training/photos-deacl
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from pretrain import Pool, draw, photo_pools, random_views, scene_pools
from safetensors.torch import save_file
from torch import Tensor

from robustprobe.encoders import Encoder
from robustprobe.encoders.file import load_folder
from robustprobe.encoders.timm import TimmViT
from robustprobe.losses.embedding import class_cosine
from robustprobe.threat import Linf
from robustprobe.types import Features

EPS, INNER_STEPS, STEP_SIZE, GAMMA = 8 / 255, 5, 2 / 255, 2.0


def embed_attack(student: Encoder, images: Tensor, clean: Features) -> Tensor:
    """EmbedAttack on the cosine distance of the student's class token to the teacher's, last iterate."""
    threat = Linf(EPS)
    adversarial = threat.project(images + (torch.rand_like(images) * 2 - 1) * EPS, images)
    for _ in range(INNER_STEPS):
        adversarial = adversarial.detach().requires_grad_(True)
        with torch.autocast(images.device.type, dtype=torch.bfloat16):
            features = student(adversarial)
        (gradient,) = torch.autograd.grad(class_cosine(features, clean).float().sum(), adversarial)
        adversarial = threat.project(threat.ascend(adversarial.detach(), gradient, STEP_SIZE), images)
    return adversarial.detach()


def deacl_loss(student: Encoder, adversarial: Tensor, images: Tensor, clean: Features) -> Tensor:
    """-cos(f_R(x), f(x)) - 2 cos(f_R(x_adv), f_R(x)), with no stop-gradient on f_R(x), mean over the batch."""
    with torch.autocast(images.device.type, dtype=torch.bfloat16):
        own, attacked = student(images).cls.float(), student(adversarial).cls.float()
    return -(F.cosine_similarity(own, clean.cls) + GAMMA * F.cosine_similarity(attacked, own)).mean()


def train(options: argparse.Namespace) -> None:
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    pools = scene_pools(options.images) if options.data == "scenes" else photo_pools(options.data_root)
    teacher, student = load_folder(options.teacher, "teacher"), load_folder(options.teacher, "student")
    teacher.freeze()
    student.eval()
    optimiser = torch.optim.SGD(student.parameters(), lr=options.lr, momentum=0.9)
    checkpoint, step, spent = out / "checkpoint.pt", 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        student.load_state_dict(state["student"])
        optimiser.load_state_dict(state["optimiser"])
        step, spent = state["step"], state["seconds"]
        torch.manual_seed(options.seed + step)
    start = time.time() - spent
    while step < options.steps:
        rate = min(1.0, (step + 1) / (0.1 * options.steps)) * (1 + math.cos(math.pi * step / options.steps)) / 2
        for group in optimiser.param_groups:
            group["lr"] = options.lr * rate
        loss = train_step(student, teacher, pools, step, optimiser)
        if step % 10 == 0:
            print(f"step {step} loss {loss:.4f} {time.time() - start:.0f} s", flush=True)
        step += 1
        if step % 50 == 0 or step == options.steps:
            state = {"student": student.state_dict(), "optimiser": optimiser.state_dict(), "step": step}
            torch.save({**state, "seconds": time.time() - start}, out / "checkpoint.tmp")
            (out / "checkpoint.tmp").replace(checkpoint)
            save_encoder(student, out / "encoder.safetensors")
    record = {"method": "DeACL", "data": options.data, "teacher_digest": teacher.digest, "steps": options.steps}
    record |= {"lr": options.lr, "eps": "8/255", "seed": options.seed, "hours": round((time.time() - start) / 3600, 2)}
    (out / "training.json").write_text(json.dumps(record, indent=2))


def save_encoder(encoder: TimmViT, path: Path) -> None:
    save_file(cast(dict[str, Tensor], encoder.model.state_dict()), path)


def train_step(
    student: Encoder, teacher: Encoder, pools: list[Pool], step: int, optimiser: torch.optim.Optimizer
) -> float:
    """One update on a batch of the pool whose turn it is; returns the loss."""
    due = [pool for pool in pools if step % pool.every == 0]
    pool = due[-1]
    images = random_views(draw(pool)[0], pool.view, colours=False).images
    with torch.no_grad():
        clean = teacher(images)
    adversarial = embed_attack(student, images, clean)
    loss = deacl_loss(student, adversarial, images, clean)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path, help="folder with card.json and encoder.safetensors")
    parser.add_argument("--data", choices=["scenes", "photos"], required=True)
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--images", type=int, default=4000, help="scenes rendered once as the training pool")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
