//! The autoencoder, run by tract.
//!
//! **A row's result does not depend on its neighbours**: every run has the same fixed batch
//! shape, padded with zeros, so that a replay in other batches gives the same bits.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tract_onnx::pb;
use tract_onnx::prelude::*;

use crate::error::{BundleError, JudgeError, Source};
use crate::manifest::AutoencoderSpec;

/// Rows in one run.
pub(crate) const BATCH: usize = 16;

/// Operators a network may use: those of dense encoders with attention, none that makes tensors
/// of a size that a number in the file says.
const KNOWN: [&str; 44] = [
    "Add",
    "BatchNormalization",
    "Cast",
    "Clip",
    "Concat",
    "Constant",
    "Div",
    "Dropout",
    "Elu",
    "Erf",
    "Exp",
    "Flatten",
    "Gather",
    "Gelu",
    "Gemm",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LayerNormalization",
    "LeakyRelu",
    "Log",
    "MatMul",
    "Max",
    "Min",
    "Mul",
    "Neg",
    "Pow",
    "ReduceMean",
    "ReduceSum",
    "Relu",
    "Reshape",
    "Selu",
    "Shape",
    "Sigmoid",
    "Slice",
    "Softmax",
    "Softplus",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Tanh",
    "Transpose",
    "Unsqueeze",
];

type Plan = Arc<TypedRunnableModel>;

/// A network that takes scaled features.
#[derive(Debug)]
pub(crate) struct Network {
    plan: Plan,
    width: usize,
    latent: Option<usize>,
    reconstruction: Option<usize>,
}

/// What the network says of all rows, one after the other; empty where it has no such output.
#[derive(Clone, Debug, Default)]
pub(crate) struct Coded {
    latent: Vec<f32>,
    latent_size: usize,
    reconstruction: Vec<f32>,
    width: usize,
}

impl Coded {
    /// The latent values of a row.
    pub(crate) fn latent(&self, row: usize) -> &[f32] {
        self.latent.get(row * self.latent_size..(row + 1) * self.latent_size).unwrap_or_default()
    }

    /// The reconstruction of a row, if there is one.
    pub(crate) fn reconstruction(&self, row: usize) -> Option<&[f32]> {
        self.reconstruction.get(row * self.width..(row + 1) * self.width).filter(|r| !r.is_empty())
    }
}

impl Network {
    pub(crate) fn read(spec: &AutoencoderSpec, bytes: &[u8], width: usize) -> Result<Self, BundleError> {
        let file = spec.file.as_str();
        let onnx_error = |source: Source| BundleError::Onnx { file: file.into(), source };
        let proto =
            tract_onnx::onnx().proto_model_for_read(&mut &*bytes).map_err(|e| onnx_error(e.into()))?;
        check(file, &proto, width)?;
        // What tract makes of a broken graph is not always an error: a panic there is the file's fault.
        let built = catch_unwind(AssertUnwindSafe(|| build(spec, &proto, width)));
        let (plan, outputs) = built
            .map_err(|_| onnx_error("its operators do not fit together".into()))?
            .map_err(|e| onnx_error(e.into()))?;
        let mut found = outputs.into_iter();
        let mut output = |named: Option<(&str, usize)>| -> Result<Option<usize>, BundleError> {
            let Some((name, expected)) = named else { return Ok(None) };
            let shape = found.next().unwrap_or_default();
            if shape != [BATCH, expected] {
                let what = format!("the output `{name}`");
                let found = format!("shape {shape:?} for {BATCH} rows");
                return Err(BundleError::Width { file: file.into(), what, expected, found });
            }
            Ok(Some(expected))
        };
        let latent = output(spec.latent.as_ref().map(|(name, size)| (name.as_str(), *size)))?;
        let reconstruction = output(spec.reconstruction.as_ref().map(|name| (name.as_str(), width)))?;
        let network = Self { plan, width, latent, reconstruction };
        let tried = catch_unwind(AssertUnwindSafe(|| network.run(&vec![0.0; width])));
        match tried {
            Ok(Ok(_)) => Ok(network),
            Ok(Err(JudgeError::Network(source))) => Err(onnx_error(source)),
            Ok(Err(other)) => Err(onnx_error(other.into())),
            Err(_) => Err(onnx_error("it can't be run".into())),
        }
    }

    /// Runs scaled rows that lie one after the other.
    pub(crate) fn run(&self, rows: &[f32]) -> Result<Coded, JudgeError> {
        let count = rows.len() / self.width;
        let latent_size = self.latent.unwrap_or_default();
        let mut coded = Coded {
            latent: Vec::with_capacity(count * latent_size),
            latent_size,
            reconstruction: Vec::with_capacity(count * self.reconstruction.unwrap_or_default()),
            width: self.width,
        };
        let mut last = Vec::new();
        for batch in rows.chunks(BATCH * self.width) {
            let full = if batch.len() == BATCH * self.width {
                batch
            } else {
                last.extend_from_slice(batch);
                last.resize(BATCH * self.width, 0.0);
                &last
            };
            let outputs = Tensor::from_shape(&[BATCH, self.width], full)
                .and_then(|input| self.plan.run(tvec!(input.into())))
                .map_err(|e| JudgeError::Network(e.into()))?;
            let mut outputs = outputs.iter();
            let mut take = |size: Option<usize>, into: &mut Vec<f32>| -> Result<(), JudgeError> {
                let Some(size) = size else { return Ok(()) };
                let output =
                    outputs.next().ok_or_else(|| JudgeError::Network("an output is missing".into()))?;
                let values =
                    output.to_plain_array_view::<f32>().map_err(|e| JudgeError::Network(e.into()))?;
                let values = values.as_slice().and_then(|v| v.get(..batch.len() / self.width * size));
                into.extend_from_slice(
                    values.ok_or_else(|| JudgeError::Network("an output is in pieces".into()))?,
                );
                Ok(())
            };
            take(self.latent, &mut coded.latent)?;
            take(self.reconstruction, &mut coded.reconstruction)?;
        }
        Ok(coded)
    }
}

/// The runnable plan and the shapes of its outputs: latent first, then reconstruction.
fn build(
    spec: &AutoencoderSpec,
    proto: &pb::ModelProto,
    width: usize,
) -> TractResult<(Plan, Vec<Vec<usize>>)> {
    let names = spec.latent.iter().map(|(name, _)| name).chain(&spec.reconstruction);
    let model = tract_onnx::onnx()
        .with_ignore_output_shapes(true)
        .model_for_proto_model(proto)?
        .with_input_fact(0, f32::fact([BATCH, width]).into())?
        .with_outputs_by_name(names)?
        .into_optimized()?;
    let shapes = model
        .outputs
        .iter()
        .map(|outlet| {
            let fact = model.outlet_fact(*outlet)?;
            fact.shape
                .as_concrete()
                .map(<[usize]>::to_vec)
                .ok_or_else(|| TractError::msg("an output has no fixed shape"))
        })
        .collect::<TractResult<_>>()?;
    Ok((model.into_runnable()?, shapes))
}

/// What tract is not asked to find out: the operators, the size of the tensors, the input.
fn check(file: &str, proto: &pb::ModelProto, width: usize) -> Result<(), BundleError> {
    let wrong = |message: String| BundleError::Onnx { file: file.into(), source: message.into() };
    let Some(graph) = &proto.graph else { return Err(wrong("there is no graph in it".into())) };
    for node in &graph.node {
        let plain = node.domain.is_empty() || node.domain == "ai.onnx";
        let op = node.op_type.as_str();
        if !plain || !KNOWN.contains(&op) {
            let op = if plain { op.to_owned() } else { format!("{}.{op}", node.domain) };
            return Err(BundleError::UnknownOp { file: file.into(), op, known: KNOWN.join(", ") });
        }
        let constants = node.attribute.iter().filter_map(|a| a.t.as_ref());
        for tensor in constants {
            whole(tensor).map_err(&wrong)?;
        }
    }
    for tensor in &graph.initializer {
        whole(tensor).map_err(&wrong)?;
    }
    if !graph.sparse_initializer.is_empty() {
        return Err(wrong("it has sparse tensors, which castwatch does not read".into()));
    }
    wired(graph).map_err(&wrong)?;
    let inputs: Vec<_> =
        graph.input.iter().filter(|i| !graph.initializer.iter().any(|t| t.name == i.name)).collect();
    let [input] = inputs.as_slice() else {
        return Err(wrong(format!("it has {} inputs; one is needed, the scaled features", inputs.len())));
    };
    let dims = input.r#type.as_ref().and_then(|t| match &t.value {
        Some(pb::type_proto::Value::TensorType(t)) => t.shape.as_ref().map(|s| &s.dim),
        _ => None,
    });
    if let Some(dims) = dims {
        let last = dims.last().and_then(|d| match d.value {
            Some(pb::tensor_shape_proto::dimension::Value::DimValue(v)) => Some(v),
            _ => None,
        });
        if dims.len() != 2 || last.is_some_and(|v| usize::try_from(v).ok() != Some(width)) {
            let found = last.map_or_else(|| format!("{} dimensions", dims.len()), |v| v.to_string());
            let what = format!("the input `{}`", input.name);
            return Err(BundleError::Width { file: file.into(), what, expected: width, found });
        }
    }
    Ok(())
}

/// Whether every value is made before it is used, and once: the graph is complete and has no circle.
fn wired(graph: &pb::GraphProto) -> Result<(), String> {
    let mut made: HashSet<&str> = graph.input.iter().map(|i| i.name.as_str()).collect();
    made.extend(graph.initializer.iter().map(|t| t.name.as_str()));
    for node in &graph.node {
        if let Some(lost) = node.input.iter().find(|i| !i.is_empty() && !made.contains(i.as_str())) {
            return Err(format!("a {} takes `{lost}`, which nothing before it makes", node.op_type));
        }
        if let Some(again) = node.output.iter().find(|o| !o.is_empty() && !made.insert(o.as_str())) {
            return Err(format!("a {} makes `{again}`, which is there already", node.op_type));
        }
    }
    match graph.output.iter().find(|o| !made.contains(o.name.as_str())) {
        Some(lost) => Err(format!("nothing makes the output `{}`", lost.name)),
        None => Ok(()),
    }
}

/// Whether a tensor holds as many values as its dimensions say, inside the file.
fn whole(tensor: &pb::TensorProto) -> Result<(), String> {
    let size = tensor
        .dims
        .iter()
        .try_fold(1_usize, |size, d| usize::try_from(*d).ok().and_then(|d| size.checked_mul(d)))
        .ok_or_else(|| format!("the tensor `{}` has impossible dimensions", tensor.name))?;
    let width = match tensor.data_type {
        1 | 6 | 12 => 4,
        7 | 11 | 13 => 8,
        2 | 3 | 9 => 1,
        4 | 5 | 10 | 16 => 2,
        other => return Err(format!("the tensor `{}` has the unknown type {other}", tensor.name)),
    };
    let listed = [
        tensor.raw_data.len() / width,
        tensor.float_data.len(),
        tensor.int32_data.len(),
        tensor.int64_data.len(),
        tensor.double_data.len(),
        tensor.uint64_data.len(),
    ];
    if tensor.data_location.unwrap_or_default() != 0 || listed.iter().sum::<usize>() != size {
        return Err(format!("the tensor `{}` does not hold the {size} values it says", tensor.name));
    }
    Ok(())
}
