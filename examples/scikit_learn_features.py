"""The codes as features for scikit-learn: what can a linear model read from each of the three?

    python examples/scikit_learn_features.py examples/faces

reads the head's yaw and prints the mean absolute error for people whom the model has not seen, beside that of
a constant. File names contain person and yaw (person1_yaw+06_surprise.jpg).

    python examples/scikit_learn_features.py FACES/ --labels folder

is for classes of your own (FACES/happy/1.jpg, FACES/sad/2.jpg, at least five each) and prints the accuracy.
These folds know nothing of people: new ones will fare worse if yours are in several pictures.
"""

import argparse
import re
import sys
from pathlib import Path

import numpy as np

import facepcl

try:
    from sklearn.dummy import DummyClassifier, DummyRegressor
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.model_selection import LeaveOneGroupOut, StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
except ImportError:
    sys.exit("scikit-learn is not installed; type: pip install scikit-learn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("faces", help="a folder of face crops")
    parser.add_argument("--labels", choices=("yaw", "folder"), default="yaw", help="where they come from")
    args = parser.parse_args()

    rows = list(facepcl.FaceEmbedder("pcl_facecycle", branch="concat").stream(args.faces))
    good = [row for row in rows if row.error is None]
    print(f"{len(good)} faces; {len(rows) - len(good)} skipped for an error")
    if len(good) < 2:
        sys.exit(f"{args.faces}: {len(good)} faces are too few to learn from")
    shared, face, pose = np.split(np.stack([row.vector for row in good]), 3, axis=1)  # each [N, 2048]
    paths = [Path(row.path) for row in good]
    if args.labels == "folder":
        y, people = [path.parent.name for path in paths], None
        model, constant = LogisticRegression(max_iter=1000), DummyClassifier()
        folds, scoring = StratifiedKFold(5, shuffle=True, random_state=0), "accuracy"
        text = "{:8} {:.0%} right"
    else:
        names = [re.match(r"([^_]+)_yaw([+-]\d+)", path.name) for path in paths]
        if None in names:
            sys.exit(f"{paths[names.index(None)]}: no yaw in its name; for class folders: --labels folder")
        y, people = [float(name[2]) for name in names], [name[1] for name in names]
        model, constant = Ridge(), DummyRegressor(strategy="median")
        folds, scoring = LeaveOneGroupOut(), "neg_mean_absolute_error"
        text = "{:8} {:.1f} degrees off"
    scaled = make_pipeline(StandardScaler(), model)
    tries = {"shared": (scaled, shared), "face": (scaled, face), "pose": (scaled, pose)}
    for name, (estimator, X) in {**tries, "constant": (constant, pose)}.items():
        score = cross_val_score(estimator, X, y, groups=people, cv=folds, scoring=scoring).mean()
        print(text.format(name, abs(score)))


if __name__ == "__main__":
    try:
        main()
    except facepcl.FacepclError as error:
        sys.exit(str(error))
