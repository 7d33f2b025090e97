"""The fits of a bundle: scale, autoencoder, trees, calibration. Every random number has a seed."""

import lightgbm
import numpy as np

CLIP = 10.0
LATENT = 12


def scale(rows):
    """Mean and deviation of each feature over the good shots that have it."""
    mean = np.nanmean(rows, axis=0, dtype=np.float64)
    deviation = np.nanstd(rows, axis=0, dtype=np.float64)
    short = np.vectorize(lambda v: float(f"{v:.9g}"))  # as the manifest writes them
    return short(mean), short(np.where(deviation > 1e-9, deviation, 1.0))


def scaled(rows, mean, deviation):
    """As castwatch does it: in double precision, clipped, missing at 0."""
    with np.errstate(invalid="ignore"):
        values = np.clip((rows.astype(np.float64) - mean) / deviation, -CLIP, CLIP)
    return np.where(np.isnan(rows), 0.0, values).astype(np.float32)


def autoencoder(rows, present, seed, hidden=48, epochs=12, batch=256):
    """width → hidden → 12 → hidden → width by Adam on the squared error of the features that are there."""
    rng = np.random.default_rng(seed)
    width = rows.shape[1]
    sizes = [width, hidden, LATENT, hidden, width]
    weights = [(rng.standard_normal((a, b)) * np.sqrt(2.0 / (a + b))).astype(np.float32)
               for a, b in zip(sizes, sizes[1:])]
    parameters = weights + [np.zeros(b, np.float32) for b in sizes[1:]]
    relu = [True, False, True, False]
    first = [np.zeros_like(p) for p in parameters]
    second = [np.zeros_like(p) for p in parameters]
    mask = present.astype(np.float32)
    steps = epochs * (len(rows) // batch)
    step = 0
    for _ in range(epochs):
        order = rng.permutation(len(rows))
        for start in range(0, len(rows) - batch + 1, batch):
            x, there = rows[order[start:start + batch]], mask[order[start:start + batch]]
            outputs = [x]
            for i in range(4):
                y = outputs[-1] @ parameters[i] + parameters[4 + i]
                outputs.append(np.maximum(y, 0) if relu[i] else y)
            slope = (outputs[-1] - x) * there * np.float32(2.0 / batch)
            gradients = [None] * 8
            for i in reversed(range(4)):
                if relu[i]:
                    slope = slope * (outputs[i + 1] > 0)
                gradients[i] = outputs[i].T @ slope
                gradients[4 + i] = slope.sum(axis=0)
                slope = slope @ parameters[i].T
            step += 1
            rate = 1e-3 * 0.5 * (1 + np.cos(np.pi * step / steps))
            for i, gradient in enumerate(gradients):
                first[i] += np.float32(0.1) * (gradient - first[i])
                second[i] += np.float32(0.001) * (gradient * gradient - second[i])
                m = first[i] / np.float32(1 - 0.9**step)
                v = second[i] / np.float32(1 - 0.999**step)
                parameters[i] -= np.float32(rate) * m / (np.sqrt(v) + np.float32(1e-8))
    return [(parameters[i], parameters[4 + i], relu[i]) for i in range(4)]


def trees(rows, labels, seed):
    settings = {
        "objective": "binary", "num_leaves": 16, "max_depth": 4, "learning_rate": 0.08, "min_data_in_leaf": 60,
        "lambda_l2": 5.0, "feature_fraction": 0.4, "bagging_fraction": 0.7, "bagging_freq": 1, "max_bin": 255,
        "seed": seed, "deterministic": True, "force_row_wise": True, "num_threads": 1, "verbosity": -1,
    }
    return lightgbm.train(settings, lightgbm.Dataset(rows, labels), num_boost_round=200)


def platt(margins, labels):
    """a and b of logistic(a·margin + b) by Newton's method."""
    a, b = 1.0, 0.0
    for _ in range(50):
        p = 1.0 / (1.0 + np.exp(-(a * margins + b)))
        w = np.maximum(p * (1 - p), 1e-12)
        slope = np.array([np.dot(p - labels, margins), np.sum(p - labels)])
        cross = np.dot(w, margins)
        curve = np.array([[np.dot(w, margins * margins) + 1e-9, cross], [cross, np.sum(w) + 1e-9]])
        a, b = np.array([a, b]) - np.linalg.solve(curve, slope)
    return float(a), float(b)
