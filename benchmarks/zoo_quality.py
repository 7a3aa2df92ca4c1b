"""Is fashion-dit a real generator? Label agreement and Fréchet distance on classifier features, by guidance scale.

The distance of real training images to the same test images is given beside it: what a perfect generator would get.
"""

from __future__ import annotations

import argparse

import torch

from diff_es import zoo
from diff_es.evaluation import Judge, agreement
from diff_es.evaluation.fashion import fashion_judge
from diff_es.evaluation.images import generate, to_pixels
from diff_es.sampling import Requests, SamplerConfig
from results import add_output_option, finish


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--guidance", type=float, nargs="+", default=[4.0])
    add_output_option(parser)
    arguments = parser.parse_args()
    pipe, judge = zoo.load_pipeline("fashion-dit"), fashion_judge()
    requests = Requests.cycle(range(10), arguments.samples, 0)
    labels = torch.tensor(requests.labels)
    rows = []
    for guidance in arguments.guidance:
        images = generate(pipe, requests, SamplerConfig(20, guidance), batch_size=50)
        rows.append({"guidance_scale": guidance, **scores(judge, to_pixels(images, requests.seeds), labels)})
        print(rows[-1], flush=True)
    training = zoo.calibration_set()
    real = scores(judge, torch.from_numpy(training.images), torch.from_numpy(training.labels))
    numbers = {"benchmark": "zoo_quality", "samples": arguments.samples, "steps": 20, "rows": rows}
    finish(
        numbers
        | {"training_images": len(training.images), "training_to_test_frechet": real["classifier_frechet"]}
        | {"training_label_agreement": real["label_agreement"]},
        arguments.json,
    )


def scores(judge: Judge, pixels: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    judged = judge.look(pixels)
    return {"label_agreement": float(agreement(judged, labels).mean()), **judge.distances(judged)}


if __name__ == "__main__":
    main()
