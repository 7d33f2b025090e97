"""Writes the two ONNX files of a bundle: the autoencoder and the trees."""

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper


def save(graph, path, opsets):
    model = helper.make_model(graph, producer_name="castwatch", opset_imports=opsets)
    model.ir_version = 8
    checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def autoencoder(layers, latent_after, path):
    """`layers` is a list of (weight, bias, relu); the output of layer `latent_after` is the latent."""
    width = layers[0][0].shape[0]
    nodes, tensors, at = [], [], "features"
    for i, (weight, bias, relu) in enumerate(layers):
        tensors += [numpy_helper.from_array(weight, f"w{i}"), numpy_helper.from_array(bias, f"b{i}")]
        last = i == len(layers) - 1
        out = "reconstruction" if last else "latent" if i == latent_after else f"h{i}"
        nodes.append(helper.make_node("Gemm", [at, f"w{i}", f"b{i}"], [f"g{i}" if relu else out]))
        if relu:
            nodes.append(helper.make_node("Relu", [f"g{i}"], [out]))
        at = out
    value = lambda name, n: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", n])
    outputs = [value("latent", layers[latent_after][0].shape[1]), value("reconstruction", width)]
    graph = helper.make_graph(nodes, "autoencoder", [value("features", width)], outputs, tensors)
    save(graph, path, [helper.make_opsetid("", 13)])


def down(threshold):
    """The largest float32 that is not above `threshold`: `x <= t` stays the same for every float32 x."""
    t = np.float32(threshold)
    return t if float(t) <= threshold else np.nextafter(t, np.float32(-np.inf))


def trees(booster, width, path):
    """A LightGBM booster's trees as a TreeEnsembleRegressor whose one target is the log-odds.

    `nodes_hitrates` holds how many training shots came to each node, which attributions need.
    """
    a = {k: [] for k in ["treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids",
                         "missing_value_tracks_true", "hitrates"]}
    target = {k: [] for k in ["ids", "treeids", "nodeids", "weights"]}

    def add(tree, node, counter):
        number = counter[0]
        counter[0] += 1
        at = len(a["nodeids"])
        for key, value in [("treeids", tree), ("nodeids", number), ("featureids", 0), ("modes", "LEAF"),
                           ("values", 0.0), ("truenodeids", 0), ("falsenodeids", 0),
                           ("missing_value_tracks_true", 0), ("hitrates", 0.0)]:
            a[key].append(value)
        if "leaf_value" in node:
            a["hitrates"][at] = float(node["leaf_count"])
            for key, value in [("ids", 0), ("treeids", tree), ("nodeids", number), ("weights", node["leaf_value"])]:
                target[key].append(value)
            return number
        assert node["decision_type"] == "<=", node["decision_type"]
        # Without missing values in training LightGBM takes a missing value for 0.
        left = node["default_left"] if node["missing_type"] == "NaN" else 0.0 <= node["threshold"]
        a["featureids"][at] = node["split_feature"]
        a["modes"][at] = "BRANCH_LEQ"
        a["values"][at] = float(down(node["threshold"]))
        a["missing_value_tracks_true"][at] = int(left)
        a["hitrates"][at] = float(node["internal_count"])
        a["truenodeids"][at] = add(tree, node["left_child"], counter)
        a["falsenodeids"][at] = add(tree, node["right_child"], counter)
        return number

    for number, tree in enumerate(booster.dump_model()["tree_info"]):
        add(number, tree["tree_structure"], [0])
    attributes = {f"nodes_{k}": v for k, v in a.items()} | {f"target_{k}": v for k, v in target.items()}
    node = helper.make_node("TreeEnsembleRegressor", ["features"], ["margin"], domain="ai.onnx.ml",
                            n_targets=1, aggregate_function="SUM", post_transform="NONE", base_values=[0.0],
                            **attributes)
    value = lambda name, n: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", n])
    graph = helper.make_graph([node], "trees", [value("features", width)], [value("margin", 1)])
    save(graph, path, [helper.make_opsetid("", 13), helper.make_opsetid("ai.onnx.ml", 3)])
