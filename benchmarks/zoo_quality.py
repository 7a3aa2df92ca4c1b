"""Is fashion-dit a real generator? Label agreement and Fréchet distance on classifier features, by guidance scale.

The distance of real training images to the same test images is given beside it: what a perfect generator would get.
"""

from __future__ import annotations

import argparse

import torch

from diff_es import zoo
from diff_es.evaluation import classifier_scores, extract_features, generate
from diff_es.images import LabelledImages, to_tensor
from diff_es.sampling import Requests, SamplerConfig
from results import add_output_option, finish


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--guidance", type=float, nargs="+", default=[4.0])
    add_output_option(parser)
    arguments = parser.parse_args()
    pipe, classifier = zoo.load_pipeline("fashion-dit"), zoo.load_classifier()
    reference = extract_features(classifier, unit(zoo.reference_set()))
    requests = Requests.cycle(range(10), arguments.samples, 0)
    labels = torch.tensor(requests.labels)
    rows = []
    for guidance in arguments.guidance:
        images = generate(pipe, requests, SamplerConfig(20, guidance), batch_size=50)
        scores = classifier_scores(classifier, images, labels, reference=reference)
        rows.append(
            {"guidance_scale": guidance, "label_agreement": scores.label_agreement}
            | {"classifier_frechet": scores.classifier_frechet}
        )
        print(rows[-1], flush=True)
    training = zoo.calibration_set()
    real = classifier_scores(classifier, unit(training), torch.from_numpy(training.labels), reference=reference)
    numbers = {"benchmark": "zoo_quality", "samples": arguments.samples, "steps": 20, "rows": rows}
    finish(
        numbers
        | {"training_images": len(training.images), "training_to_test_frechet": real.classifier_frechet}
        | {"training_label_agreement": real.label_agreement},
        arguments.json,
    )


def unit(images: LabelledImages) -> torch.Tensor:
    """Images in [0, 1]."""
    return ((to_tensor(images.images) + 1) / 2).clamp(0, 1)


if __name__ == "__main__":
    main()
