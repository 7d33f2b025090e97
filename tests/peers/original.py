"""Builds a bundle of the same architecture as the original plant's model, with made-up weights.

30 features, scaled and clipped → an encoder of three gated layers, attention between four heads and 12
latent values → a boosted classifier on the 42 values, written the way scikit-learn's converter does
(TreeEnsembleClassifier, one base value). The weights and labels are made up, at the scale of real shots:
what is compared is the arithmetic. Golden values are onnxruntime's. It stays in the cache.

    original.py PLANT.toml OUT SHOTS.csv.gz
"""

import csv
import gzip
import hashlib
import json
import pathlib
import sys
import tomllib

import lightgbm
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "models" / "training"))
import export  # noqa: E402
import fit  # noqa: E402

LATENT = 12


def encoder(width, path, rng, rows):
    """Writes the encoder; its norms hold what `rows` show at each layer, as after training."""
    nodes, tensors = [], []

    def tensor(name, value):
        tensors.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def weights(rows, columns):
        weight = rng.standard_normal((columns, rows)) / np.sqrt(rows)
        return weight.astype(np.float32), (0.1 * rng.standard_normal(columns)).astype(np.float32)

    def linear(name, x, weight, bias):
        inputs = [x, tensor(f"{name}.w", weight), tensor(f"{name}.b", bias)]
        nodes.append(helper.make_node("Gemm", inputs, [name], transB=1))
        return name

    def node(op, inputs, output, **attributes):
        nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    x, at = "features", width
    for columns in [64, 32, 16]:
        (w, b), (v, c) = weights(at, columns), weights(at, columns)
        gate = linear(f"gate{columns}", x, w, b)
        silu = node("Mul", [gate, node("Sigmoid", [gate], f"sigmoid{columns}")], f"silu{columns}")
        x = node("Mul", [silu, linear(f"linear{columns}", x, v, c)], f"swiglu{columns}")
        g = rows @ w.T + b
        rows = g / (1 + np.exp(-g)) * (rows @ v.T + c)
        scale, bias = (0.5 + rng.random(columns)).astype(np.float32), (0.2 * rng.standard_normal(columns)).astype(np.float32)
        mean, var = rows.mean(axis=0).astype(np.float32), rows.var(axis=0).astype(np.float32)
        norm = [tensor(f"bn{columns}.{k}", t) for k, t in
                [("scale", scale), ("bias", bias), ("mean", mean), ("var", var)]]
        x = node("BatchNormalization", [x, *norm], f"norm{columns}", epsilon=1e-5)
        rows = (rows - mean) / np.sqrt(var + 1e-5) * scale + bias
        at = columns
    qkv = node("Reshape", [linear("qkv", x, *weights(16, 48)), tensor("heads", np.array([-1, 3, 4, 4]))], "split")
    q, k, v = (node("Gather", [qkv, tensor(f"at{i}", np.array(i))], f"qkv{i}", axis=1) for i in range(3))
    scores = node("MatMul", [q, node("Transpose", [k], "kt", perm=[0, 2, 1])], "scores")
    half = node("Mul", [scores, tensor("half", np.float32(0.5))], "halved")
    mixed = node("MatMul", [node("Softmax", [half], "weights", axis=-1), v], "mixed")
    flat = node("Reshape", [mixed, tensor("flat", np.array([-1, 16]))], "joined")
    linear("latent", linear("proj", flat, *weights(16, 16)), *weights(16, LATENT))
    value = lambda name, n: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", n])
    graph = helper.make_graph(nodes, "encoder", [value("features", width)], [value("latent", LATENT)], tensors)
    export.save(graph, path, [helper.make_opsetid("", 13)])


def classifier(booster, width, path):
    """The trees as scikit-learn's converter writes a binary classifier: weights of one class, one base value."""
    export.trees(booster, width, path)
    model = onnx.load(path)
    node = model.graph.node[0]
    node.op_type = "TreeEnsembleClassifier"
    changed = ("n_targets", "aggregate_function", "post_transform", "base_values")
    kept = [a for a in node.attribute if a.name not in changed]
    for attribute in kept:
        attribute.name = attribute.name.replace("target_", "class_")
    del node.attribute[:]
    node.attribute.extend(kept)
    node.attribute.extend([helper.make_attribute("post_transform", "LOGISTIC"),
                           helper.make_attribute("classlabels_int64s", [0, 1]),
                           helper.make_attribute("base_values", [-0.25])])
    node.output[:] = ["label", "probabilities"]
    outputs = [helper.make_tensor_value_info("label", TensorProto.INT64, ["rows"]),
               helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["rows", 2])]
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    path.write_bytes(model.SerializeToString(deterministic=True))


def at_a_split(out, inputs):
    """Shots with a latent value so close to a split that its last bits decide."""
    node = onnx.load(out / "trees.onnx").graph.node[0]
    a = {x.name: onnx.helper.get_attribute_value(x) for x in node.attribute}
    close = np.zeros(len(inputs), dtype=bool)
    for mode, column, threshold in zip(a["nodes_modes"], a["nodes_featureids"], a["nodes_values"]):
        if mode != b"LEAF" and column >= inputs.shape[1] - LATENT:
            close |= np.abs(inputs[:, column] - threshold) < 2e-6
    return close


def main(plant, out, data):
    rng = np.random.default_rng(30)
    readings = tomllib.loads(plant.read_text())["reading"]
    out.mkdir(parents=True, exist_ok=True)
    width = len(readings)
    with gzip.open(data, "rt", encoding="utf-8-sig") as lines:
        real = list(csv.DictReader(lines))
    rows = np.array([[float(r[x["column"]] or "nan") for x in readings] for r in real], dtype=np.float32)
    mean, scale = (np.array([float(f"{v:.9g}") for v in f(rows, axis=0)]) for f in (np.nanmean, np.nanstd))
    scale = np.where(scale > 1e-9, scale, 1.0)
    scaled = fit.scaled(rows, mean, scale)
    encoder(width, out / "encoder.onnx", rng, scaled)
    session = lambda name: onnxruntime.InferenceSession(out / name, providers=["CPUExecutionProvider"])
    latent = session("encoder.onnx").run(["latent"], {"features": scaled})[0]
    inputs = np.hstack([scaled, latent])
    labels = inputs[:, 3] * inputs[:, 7] + inputs[:, 31] - inputs[:, 12] + rng.standard_normal(len(rows)) > 1
    settings = {"objective": "binary", "num_leaves": 40, "max_depth": 6, "max_bin": 63, "learning_rate": 0.1, "verbosity": -1,
                "seed": 30, "deterministic": True, "num_threads": 1, "force_row_wise": True}
    booster = lightgbm.train(settings, lightgbm.Dataset(inputs, labels), num_boost_round=200)
    classifier(booster, inputs.shape[1], out / "trees.onnx")
    probabilities = session("trees.onnx").run(["probabilities"], {"features": inputs})[0][:, 1].astype(np.float64)
    golden = [{"features": [None if np.isnan(x) else float(x) for x in rows[i]], "probability": probabilities[i],
               "margin": float(np.log(probabilities[i] / (1 - probabilities[i])))}
              for i in np.flatnonzero((np.abs(probabilities - 0.5) < 0.45) & ~at_a_split(out, inputs))[:40]]
    (out / "golden.json").write_text(json.dumps({"rows": golden}))
    vector = lambda values: "[" + ", ".join(repr(float(v)) for v in values) + "]"
    same = '{ ko = "가", en = "a" }'
    text = ['name = "original"', 'version = "1"', "[features]", 'of_readings = ["raw"]']
    for r in readings:
        text += ["[[reading]]", f'name = "{r.get("name", r["column"])}"',
                 "plausible = " + json.dumps(r["range"]), f"words = {same}", f"equipment = {same}",
                 f"advice_low = {same}", f"advice_high = {same}"]
    text += ["[scale]", f"mean = {vector(mean)}", f"scale = {vector(scale)}", "[autoencoder]",
             'file = "encoder.onnx"', 'latent = "latent"', f"latent_size = {LATENT}", "[trees]",
             'file = "trees.onnx"', 'inputs = "features+latent"', "scaled = true", "[calibration]", 'kind = "none"',
             "[thresholds]", "suspect = 0.3", "defect = 0.6", "[files]"]
    text += [f'"{n}" = "{hashlib.sha256((out / n).read_bytes()).hexdigest()}"'
             for n in ["encoder.onnx", "golden.json", "trees.onnx"]]
    (out / "bundle.toml").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main(*map(pathlib.Path, sys.argv[1:]))
