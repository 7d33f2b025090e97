"""Asserts that castwatch computes what onnxruntime and shap compute on the same bundle and shots.

For each case NAME=BUNDLE it reads NAME.parquet (`castwatch features --attributions`) and NAME.csv
(`castwatch score`). Scores must agree to 1e-5 on every shot; attributions to 1e-6 in log-odds on
10,000 shots spread over the table. That shap explains the same trees is checked first.
"""

import argparse
import csv
import pathlib
import tomllib

import numpy as np
import onnx
import onnxruntime
import pyarrow.parquet
import shap

SHOTS = 10_000
passed, failed = 0, 0


def check(name, largest, most, of):
    global passed, failed
    good = largest <= most
    passed, failed = passed + good, failed + (not good)
    print(f"{'ok    ' if good else 'FAILED'} {name}: largest difference {largest:.3g}, at most {most:g}, {of}")


def logistic(x):
    return 1 / (1 + np.exp(-x))


def largest(a, b):
    assert a.shape == b.shape and not (np.isnan(a) ^ np.isnan(b)).any(), (a.shape, b.shape)
    return float(np.nanmax(np.abs(a - b))) if a.size else float("inf")


class Peer:
    """A bundle run by onnxruntime, its steps taken from bundle.toml."""

    def __init__(self, folder):
        self.folder = folder
        self.manifest = tomllib.loads((folder / "bundle.toml").read_text())

    def run(self, name, rows):
        session = onnxruntime.InferenceSession(self.folder / name, providers=["CPUExecutionProvider"])
        return dict(zip([o.name for o in session.get_outputs()], session.run(None, {"features": rows})))

    def inputs(self, rows):
        """What the trees take, and the anomaly."""
        scale, coder, trees = (self.manifest.get(k) for k in ("scale", "autoencoder", "trees"))
        mean, deviation, clip = np.array(scale["mean"]), np.array(scale["scale"]), scale.get("clip", 10.0)
        there = ~np.isnan(rows)
        scaled = np.where(there, np.clip((rows.astype(np.float64) - mean) / deviation, -clip, clip), 0.0)
        scaled = scaled.astype(np.float32)
        out = self.run(coder["file"], scaled)
        parts = [scaled if trees["scaled"] else rows]
        if trees["inputs"] != "features":
            parts.append(out[coder["latent"]])
        anomaly = np.full(len(rows), np.nan)
        if "reconstruction" in coder:
            squares = (scaled.astype(np.float64) - out[coder["reconstruction"]]) ** 2
            anomaly = (squares * there).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
        return np.hstack(parts), anomaly

    def margin_and_probability(self, inputs):
        out = self.run(self.manifest["trees"]["file"], inputs)
        if "margin" in out:
            margin = out["margin"][:, 0].astype(np.float64)
        else:
            raw = np.clip(out["probabilities"][:, 1].astype(np.float64), 1e-12, 1 - 1e-7)
            margin = np.log(raw / (1 - raw))
        c = self.manifest["calibration"]
        match c["kind"]:
            case "none":
                return margin, logistic(margin)
            case "platt":
                return margin, logistic(c["a"] * margin + c["b"])
            case "isotonic":
                return margin, np.interp(margin, c["margins"], c["probabilities"])

    def splits(self):
        """Input and threshold of every branch."""
        for tree in self.trees()["trees"]:
            branches = tree["features"] >= 0
            yield from zip(tree["features"][branches], tree["thresholds"][branches])

    def trees(self):
        """The ensemble in shap's own form."""
        model = onnx.load(self.folder / self.manifest["trees"]["file"])
        a = {x.name: onnx.helper.get_attribute_value(x) for x in model.graph.node[0].attribute}
        kind = "target" if "target_ids" in a else "class"
        tree_ids = np.array(a["nodes_treeids"])
        weights = dict(zip(zip(a[f"{kind}_treeids"], a[f"{kind}_nodeids"]), a[f"{kind}_weights"]))
        trees = []
        for tree in np.unique(tree_ids):
            at = np.flatnonzero(tree_ids == tree)
            pick = lambda name: np.array([a[f"nodes_{name}"][i] for i in at])
            leaf = pick("modes") == b"LEAF"
            assert set(pick("modes")) <= {b"LEAF", b"BRANCH_LEQ"} and (pick("nodeids") == np.arange(len(at))).all()
            left = np.where(leaf, -1, pick("truenodeids"))
            right = np.where(leaf, -1, pick("falsenodeids"))
            trees.append({
                "children_left": left.astype(np.int32), "children_right": right.astype(np.int32),
                "children_default": np.where(pick("missing_value_tracks_true") == 1, left, right).astype(np.int32),
                "features": np.where(leaf, -1, pick("featureids")).astype(np.int32),
                "thresholds": pick("values").astype(np.float64),
                "values": np.array([[weights.get((tree, i), 0.0)] for i in pick("nodeids")], dtype=np.float64),
                "node_sample_weight": pick("hitrates").astype(np.float64),
            })
        return {"trees": trees, "base_offset": float(a.get("base_values", [0.0])[-1]), "input_dtype": np.float32,
                "internal_dtype": np.float64}


def compare(case, bundle, work):
    table = pyarrow.parquet.read_table(work / f"{case}.parquet")
    names = table.column_names
    first, base = names.index("scorable") + 1, names.index("base")
    column = lambda n: table[n].to_numpy()
    rows = np.ascontiguousarray(np.column_stack([column(n) for n in names[first:base]]), dtype=np.float32)
    with (work / f"{case}.csv").open() as lines:
        scores = {int(r["row"]): r for r in csv.DictReader(lines)}
    scores = [scores[n] for n in column("row")]
    peer = Peer(bundle)
    inputs, anomaly = peer.inputs(rows)
    margin, probability = peer.margin_and_probability(inputs)

    # Two runtimes give latent values that differ in their last bits; a shot whose value stands right at a
    # split may go either way, so it is left out (and counted).
    loose = np.zeros(len(rows), dtype=bool)
    for split, threshold in peer.splits():
        if split >= rows.shape[1]:
            loose |= np.abs(inputs[:, split] - threshold) < 2e-6
    scored = np.array([s["probability"] != "" for s in scores]) & ~loose
    number = lambda key: np.array([float(s[key] or "nan") for s in scores])
    of = f"{scored.sum()} shots" + (f" ({loose.sum()} left out)" if loose.any() else "")
    check(f"{case}: probability", largest(number("probability")[scored], probability[scored]), 1e-5, of)
    if not np.isnan(anomaly).all():
        check(f"{case}: anomaly", largest(number("anomaly")[scored], anomaly[scored]), 1e-5, of)

    limits = peer.manifest["thresholds"]
    unlike = anomaly >= limits.get("anomaly", np.inf)
    verdict = np.where(probability >= limits["defect"], "defect",
                       np.where((probability >= limits["suspect"]) | unlike, "suspect", "ok"))
    near = np.zeros(len(rows), dtype=bool)
    for values, key in [(probability, "suspect"), (probability, "defect"), (anomaly, "anomaly")]:
        near |= np.abs(values - limits.get(key, np.inf)) < 1e-5
    said = np.array([s["verdict"] for s in scores])
    check(f"{case}: verdicts that differ", float((said != verdict)[scored & ~near].sum()), 0, of)

    kept = np.flatnonzero(~loose)
    some = kept[np.unique(np.linspace(0, len(kept) - 1, min(SHOTS, len(kept))).astype(int))]
    of = f"{len(some)} shots, {inputs.shape[1]} inputs"
    explainer = shap.TreeExplainer(peer.trees(), feature_perturbation="tree_path_dependent")
    own = np.ravel(explainer.model.predict(inputs[some].astype(np.float64)))
    check(f"{case}: shap's trees", largest(logistic(own), logistic(margin[some])), 1e-6, of)
    values = explainer.shap_values(inputs[some].astype(np.float64), check_additivity=False)
    ours = np.column_stack([column(n)[some] for n in names[base + 1:]])
    shown = ours.shape[1]
    check(f"{case}: attributions", largest(ours, np.asarray(values).reshape(len(some), -1)[:, :shown]), 1e-6, of)
    expected = np.full(len(some), float(np.ravel(explainer.expected_value)[0]))
    check(f"{case}: base", largest(column("base")[some], expected), 1e-6, of)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("cases", nargs="+")
    args = parser.parse_args()
    for case in args.cases:
        name, bundle = case.split("=")
        compare(name, pathlib.Path(bundle), args.work)
    print(f"{passed} passed, {failed} failed")
    raise SystemExit(failed > 0)


if __name__ == "__main__":
    main()
