"""Is fashion-dit a real generator? What the shipped classifier says of its images, by guidance scale.

Label agreement, and on the classifier's features the Fréchet distance, the inception-score analogue, precision and
recall, with bootstrap intervals. What real training images get is given beside them: the best that a generator can hope
for. The images are kept, so that a stopped run goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from diff_es import zoo
from diff_es.evaluation import ImageScores, Judge, Quality, agreement, assess, interval
from diff_es.evaluation.quality import bounds_of
from diff_es.run.judges import known_judge
from diff_es.run.measure import Bench, Contestant
from diff_es.sampling import Requests, SamplerConfig
from results import add_output_option, finish

MODEL = "zoo:fashion-dit"
STEPS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--guidance", type=float, nargs="+", default=[4.0])
    parser.add_argument("--output", type=Path, default=Path("runs/zoo_quality"), help="where the images are kept")
    add_output_option(parser)
    arguments = parser.parse_args()
    pipe, judge = zoo.load_pipeline("fashion-dit"), known_judge(MODEL)
    assert judge is not None
    requests = Requests.cycle(range(10), arguments.samples, 0)
    rows = []
    for guidance in arguments.guidance:
        bench = Bench(pipe, SamplerConfig(STEPS, guidance), judge)
        folder = arguments.output / f"{arguments.samples} images, guidance {guidance:g}"
        samples = bench.sample(Contestant("dense", ""), requests, folder, batch_size=50)
        quality = judged(judge, samples.tensor("images"), torch.tensor(requests.labels))
        rows.append({"guidance_scale": guidance, **quality.values, "intervals": intervals(quality, judge)})
        print(rows[-1], flush=True)
    training = zoo.calibration_set()
    real = judged(judge, torch.from_numpy(training.images), torch.from_numpy(training.labels))
    numbers: dict[str, Any] = {"benchmark": "zoo_quality", "samples": arguments.samples, "steps": STEPS, "rows": rows}
    numbers |= {"training_images": len(training), "training_to_test_frechet": real.values["classifier_frechet"]}
    numbers |= {"training_label_agreement": real.values["label_agreement"], "training": real.values}
    finish(numbers | {"training_intervals": intervals(real, judge)}, arguments.json)


def judged(judge: Judge, images: torch.Tensor, labels: torch.Tensor) -> Quality:
    """Everything that the judge says about images (N, H, W, 3) uint8."""
    said = judge.look(images)
    return assess(ImageScores({}, agreement(said, labels), said), judge)


def intervals(quality: Quality, judge: Judge) -> dict[str, tuple[float, float]]:
    """95 % bootstrap intervals over the images, of the numbers that have one."""
    return {
        name: interval(quality.values[name], drawn, bounds_of(name, judge))
        for name, drawn in quality.replicates.items()
    }


if __name__ == "__main__":
    main()
