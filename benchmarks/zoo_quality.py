"""Is a pipeline of the zoo a real generator? What the shipped classifier says of its images, by guidance scale.

Label agreement, and on the classifier's features the Fréchet distance, the inception-score analogue, precision and
recall, with bootstrap intervals. What real training images get is given beside them: the best that a generator can hope
for. The images are kept, so that a stopped run goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from diff_es import zoo
from diff_es.evaluation import ImageScores, Judge, Quality, agreement, assess, interval
from diff_es.evaluation.quality import bounds_of
from diff_es.run.judges import known_judge
from diff_es.run.measure import Bench, Contestant
from diff_es.sampling import ImageRequests, PromptRequests, Requests, SamplerConfig, takes_labels
from results import add_output_option, finish

if TYPE_CHECKING:
    from diff_es.zoo import Pipeline

#: The samplers that the models are shipped for: steps and guidance scale (FLUX takes none).
DEFAULTS: Final = {
    "fashion-dit": SamplerConfig(20, 4.0),
    "fashion-sdxl": SamplerConfig(20, 4.0),
    "fashion-flux": SamplerConfig(4, 0.0, {"max_sequence_length": 16}),
}
BATCH = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=DEFAULTS, default="fashion-dit")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--steps", type=int, help="of the sampler; by default those that the model is shipped for")
    parser.add_argument("--guidance", type=float, nargs="+", help="guidance scales; by default the model's own")
    parser.add_argument("--output", type=Path, default=Path("runs/zoo_quality"), help="where the images are kept")
    add_output_option(parser)
    arguments = parser.parse_args()
    name, default = arguments.model, DEFAULTS[arguments.model]
    pipe, judge = zoo.load_pipeline(name), known_judge(f"zoo:{name}")
    assert judge is not None
    steps = arguments.steps or default.num_inference_steps
    requests = requests_for(pipe, arguments.samples)
    rows = []
    for guidance in arguments.guidance or [default.guidance_scale]:
        bench = Bench(pipe, SamplerConfig(steps, guidance, default.arguments), judge)
        folder = arguments.output / name / f"{arguments.samples} images, {steps} steps, guidance {guidance:g}"
        samples = bench.sample(Contestant("dense", ""), requests, folder, batch_size=BATCH)
        quality = judged(judge, samples.tensor("images"), torch.tensor(requests.labels))
        rows.append({"guidance_scale": guidance, **quality.values, "intervals": intervals(quality, judge)})
        print(rows[-1], flush=True)
    training = zoo.calibration_set()
    real = judged(judge, torch.from_numpy(training.images), torch.from_numpy(training.labels))
    numbers: dict[str, Any] = {"benchmark": "zoo_quality", "model": name, "samples": arguments.samples}
    numbers |= {"sampler": type(pipe.scheduler).__name__, "steps": steps, "rows": rows}
    numbers |= {"training_images": len(training), "training_to_test_frechet": real.values["classifier_frechet"]}
    numbers |= {"training_label_agreement": real.values["label_agreement"], "training": real.values}
    finish(numbers | {"training_intervals": intervals(real, judge)}, arguments.json)


def requests_for(pipe: Pipeline, count: int) -> ImageRequests:
    """The ten classes in turn, by label or by the label's default caption."""
    labels = range(len(zoo.CLASS_NAMES))
    if takes_labels(pipe):
        return Requests.cycle(labels, count, 0)
    return PromptRequests.cycle(zoo.CAPTIONS, count, 0, labels)


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
