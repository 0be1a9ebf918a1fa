"""Share of generated digits that a classifier assigns to the right class.

`python -m benchmarks.digits_accuracy RUN_DIR [--seed 0]` draws 50 images of each class with 18 Heun
steps and no guidance, and classifies them with a 3-nearest-neighbour classifier that was fitted on
all real digits.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from commands import draw, pipeline
from diffusion import Heun
from diffusion.data import Digits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    trained = pipeline.read(args.run_dir)
    sampling = dataclasses.replace(trained.sampling, sampler=Heun(), num_steps=18, guidance=1.0)
    trained = dataclasses.replace(trained, sampling=sampling)
    labels = np.repeat(np.arange(10, dtype=np.int32), 50)
    pixels = draw.draw(trained, labels, seed=args.seed, chunk_size=100)

    real = Digits().load()
    classifier = KNeighborsClassifier(n_neighbors=3)
    features, classes = real.pixels.reshape(len(real.pixels), -1).astype(float), real.labels
    held_out = cross_val_score(classifier, features, classes, cv=10).mean()
    classifier.fit(features, classes)
    right = classifier.predict(pixels.reshape(len(pixels), -1).astype(float)) == labels
    by_class = right.reshape(10, 50).sum(1)
    print(f"{trained.name}: {right.mean():.1%} of 500 generated digits are classified correctly")
    print(f"by class, of 50: {' '.join(map(str, by_class))}")
    print(f"(held-out real digits, by the same classifier: {held_out:.1%})")


if __name__ == "__main__":
    main()
