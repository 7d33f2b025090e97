"""Trains a bundle from labelled shots and the features castwatch made of them.

Fitted on the first 60 % in time, calibrated on the next 20 %, reported on the last 20 %. The golden
values are onnxruntime's, so that a bundle loads only where castwatch agrees with it.
"""

import argparse
import hashlib
import importlib.metadata
import json
import pathlib
import tomllib

import numpy as np
import onnxruntime
import pyarrow.parquet

import export
import fit

GOLDEN_SHOTS = 30
GOLDEN_ROWS = 24


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ["shots", "features", "draft", "out"]:
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    args = parser.parse_args()
    draft = (args.draft / "bundle.toml").read_text()
    readings = tomllib.loads(draft)["reading"]
    with args.shots.open() as lines:
        shots = [json.loads(line) for line in lines]
    columns = pyarrow.parquet.read_table(args.features)
    assert columns.num_rows == len(shots), "a feature row for each shot"
    labels = columns["label"].to_numpy()
    names = columns.column_names[columns.column_names.index("scorable") + 1:]
    table = np.ascontiguousarray(np.column_stack([columns[n].to_numpy() for n in names]), dtype=np.float32)
    fitted, calibrated = int(0.6 * len(shots)), int(0.8 * len(shots))
    part = {"fit": slice(0, fitted), "calibrate": slice(fitted, calibrated), "report": slice(calibrated, None)}
    args.out.mkdir(parents=True, exist_ok=True)

    good = table[part["fit"]][~labels[part["fit"]]]
    mean, deviation = fit.scale(good)
    layers = fit.autoencoder(fit.scaled(good, mean, deviation), ~np.isnan(good), args.seed)
    export.autoencoder(layers, 1, args.out / "autoencoder.onnx")
    booster = fit.trees(table[part["fit"]], labels[part["fit"]], args.seed)
    export.trees(booster, table.shape[1], args.out / "trees.onnx")

    margins, anomalies = run(args.out, table, mean, deviation)
    off = np.abs(margins - booster.predict(table, raw_score=True)).max()
    assert off < 1e-4, f"the exported trees are off by {off}"
    a, b = fit.platt(margins[part["calibrate"]], labels[part["calibrate"]])
    a, b = round(a, 6), round(b, 6)
    probabilities = 1.0 / (1.0 + np.exp(-(a * margins + b)))
    calm = ~labels[part["calibrate"]]
    quantile = lambda values, q: float(f"{np.quantile(values[part['calibrate']][calm], q):.4g}")
    limits = {
        "suspect": quantile(probabilities, 0.97), "defect": quantile(probabilities, 0.99),
        "anomaly": quantile(anomalies, 0.995),
    }

    golden = {"shots": [], "rows": []}
    expected = lambda i: {
        "features": [None if np.isnan(x) else float(x) for x in table[i]], "margin": float(margins[i]),
        "probability": float(probabilities[i]), "anomaly": float(anomalies[i]),
    }
    for i in golden_shots(shots, readings):
        shot = {k: v for k, v in shots[i].items() if k not in ("defect", "cause")}
        golden["shots"].append({"shot": shot, "expected": expected(i)})
    late = np.arange(calibrated, len(shots))
    picks = np.concatenate([late[labels[late]][:: max(1, labels[late].sum() // 12)][:12],
                            late[~labels[late]][:: max(1, (~labels[late]).sum() // 12)][:12]])
    golden["rows"] = [expected(i) for i in picks[:GOLDEN_ROWS]]
    write(args.out / "golden.json", json.dumps(golden, ensure_ascii=False, separators=(",", ":")) + "\n")

    facts = report(labels[part["report"]], probabilities[part["report"]], anomalies[part["report"]], limits)
    facts = {"shots": len(shots), "seed": args.seed, "features": table.shape[1]} | facts
    packages = {p: importlib.metadata.version(p) for p in ["lightgbm", "numpy", "onnx", "onnxruntime"]}
    write(args.out / "MODEL_CARD.md", card(facts, limits, (a, b), packages))
    names = ["MODEL_CARD.md", "autoencoder.onnx", "golden.json", "trees.onnx"]
    digests = {n: hashlib.sha256((args.out / n).read_bytes()).hexdigest() for n in names}
    write(args.out / "bundle.toml", draft + steps(mean, deviation, a, b, limits, facts | packages, digests))
    print(json.dumps(facts | limits | {"a": a, "b": b, "largest export difference": float(off)}, indent=1))


def run(folder, table, mean, deviation):
    """Margins and anomalies as onnxruntime gives them."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = lambda name: onnxruntime.InferenceSession(folder / name, options, ["CPUExecutionProvider"])
    margins = session("trees.onnx").run(["margin"], {"features": table})[0][:, 0].astype(np.float64)
    inputs = fit.scaled(table, mean, deviation)
    again = session("autoencoder.onnx").run(["reconstruction"], {"features": inputs})[0]
    there = ~np.isnan(table)
    squares = (inputs.astype(np.float64) - again) ** 2
    return margins, (squares * there).sum(axis=1) / np.maximum(there.sum(axis=1), 1)


def golden_shots(shots, readings):
    """The first shots of a die that sends a no-sensor code among them, so that codes are checked as well."""
    codes = {r["name"]: r.get("no_sensor", []) for r in readings}
    dies = {}
    for i, shot in enumerate(shots):
        dies.setdefault((shot["machine"], shot["die"]), []).append(i)
    coded = lambda i: any(v in codes.get(n, []) for n, v in shots[i]["readings"].items())
    firsts = [indexes[:GOLDEN_SHOTS] for indexes in dies.values()]
    return next((f for f in firsts if any(coded(i) for i in f)), firsts[0])


def report(labels, probabilities, anomalies, limits):
    alarms = probabilities >= limits["defect"]
    return {
        "report_shots": len(labels), "report_defects": int(labels.sum()),
        "roc_auc": roc_auc(labels, probabilities), "average_precision": average_precision(labels, probabilities),
        "recall": share(alarms[labels]), "precision": share(labels[alarms]), "false_alarms": share(alarms[~labels]),
        "anomaly_roc_auc": roc_auc(labels, anomalies),
        "mean_probability": round(float(probabilities.mean()), 4), "defect_rate": share(labels),
    }


def share(flags):
    return round(float(np.mean(flags)), 4)


def roc_auc(labels, scores):
    order = np.argsort(scores, kind="stable")
    ranks = np.empty(len(scores))
    ranks[order] = np.arange(1, len(scores) + 1)
    n = labels.sum()
    return round(float((ranks[labels].sum() - n * (n + 1) / 2) / (n * (len(labels) - n))), 4)


def average_precision(labels, scores):
    hits = labels[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return round(float(precision[hits].mean()), 4)


def steps(mean, deviation, a, b, limits, facts, digests):
    """The part of bundle.toml after the draft."""
    vector = lambda values: "[" + ", ".join(repr(float(v)) for v in values) + "]"
    value = lambda v: json.dumps(v)
    out = ["", "[scale]", f"clip = {fit.CLIP}", f"mean = {vector(mean)}", f"scale = {vector(deviation)}", ""]
    out += ["[autoencoder]", 'file = "autoencoder.onnx"', 'latent = "latent"', f"latent_size = {fit.LATENT}",
            'reconstruction = "reconstruction"', ""]
    out += ["[trees]", 'file = "trees.onnx"', 'inputs = "features"', "scaled = false", ""]
    out += ["[calibration]", 'kind = "platt"', f"a = {a}", f"b = {b}", ""]
    out += ["[thresholds]"] + [f"{k} = {v}" for k, v in limits.items()] + [""]
    out += ["[training]", 'data = "simulated: castwatch simulate"'] + [f"{k} = {value(v)}" for k, v in facts.items()]
    out += ["", "[files]"] + [f'"{k}" = "{v}"' for k, v in digests.items()]
    return "\n".join(out) + "\n"


def card(facts, limits, calibration, packages):
    rows = "\n".join(f"| {k.replace('_', ' ')} | {v} |" for k, v in facts.items())
    versions = ", ".join(f"{k} {v}" for k, v in packages.items())
    template = (pathlib.Path(__file__).parent / "MODEL_CARD.template.md").read_text()
    return template.format(rows=rows, versions=versions, a=calibration[0], b=calibration[1], **facts, **limits)


def write(path, text):
    path.write_bytes(text.encode())


if __name__ == "__main__":
    main()
