"""What to use instead of operators that cannot be trained, for those that torch's layers and functions become."""

from __future__ import annotations

_ALTERNATIVES = {
    "TopK ArgMax ArgMin Hardmax median kthvalue mode sort argsort": (
        "use torch.amax, torch.logsumexp or a softmax as weights"
    ),
    "GatherElements GatherND NonZero Compress Unique masked_select nonzero": (
        "take entries at fixed places by slices, torch.split or a constant mask"
    ),
    "OneHot": "use torch.nn.Embedding, or compare with torch.arange",
    "Resize Upsample GridSample AffineGrid grid_sampler interpolate": (
        "use torch.nn.ConvTranspose2d, or repeat entries by unsqueeze, expand and flatten"
    ),
    (
        "RandomNormal RandomNormalLike RandomUniform RandomUniformLike Bernoulli Multinomial Dropout "
        "exponential normal uniform randperm geometric"
    ): ("leave the noise out: a training graph draws no random numbers"),
    "CumSum cumprod cummax cummin logcumsumexp Scan Loop": (
        "multiply with a constant triangular matrix (torch.tril of ones), or use torch.nn.GRU or torch.nn.LSTM"
    ),
    "ScatterND ScatterElements Scatter index_put index_add masked_scatter": (
        "make a new tensor by torch.where, torch.cat or a product with a mask"
    ),
    (
        "complex view_as_complex view_as_real angle real imag polar DFT STFT fft_rfft fft_fft fft_irfft "
        "fft_ifft fft_rfft2 fft_fft2 stft istft"
    ): ("complex numbers are not supported: keep two real tensors, or transform the data beforehand"),
    "Sinh Cosh sinh cosh expm1": ("write it with torch.exp"),
    "Atan Asin Acos Atanh Asinh Acosh Tan atan2": ("use torch.tanh or torch.sin"),
    "ReduceProd": ("use torch.exp of the sum of logarithms"),
    "DepthToSpace SpaceToDepth pixel_shuffle": ("use torch.nn.ConvTranspose2d or unflatten, permute and flatten"),
    "channel_shuffle": ("use unflatten, transpose and flatten"),
    "Einsum bilinear tensordot": ("use torch.matmul with transpose and unsqueeze"),
    "Tile": ("use torch.cat of copies, or unsqueeze, expand and flatten"),
    "If": (
        "torch exports a choice by sizes here; use plain operators (repeat for tile, GroupNorm for LocalResponseNorm)"
    ),
    "BatchNormalization": ("use torch.nn.GroupNorm, or track_running_stats=False in an instance norm"),
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool1d adaptive_max_pool2d": (
        "use an output size that divides the input's, or a pool with kernel and stride"
    ),
    "matrix_H mv spectral_norm": ("use torch.nn.utils.parametrizations.weight_norm"),
    "rms_norm MeanVarianceNormalization LpNormalization": (
        "write it with torch.mean and torch.Tensor.square over axes of one example"
    ),
    "GRU LSTM RNN": ("use torch.nn.GRU or torch.nn.LSTM with batch_first=True"),
    "LpPool GlobalLpPool": ("use torch.nn.AvgPool2d of squares and a root"),
    "Mod FloorDiv fmod remainder": ("use torch.floor"),
    "Range": ("make constants in the module's __init__, with sizes of one example"),
    "inverse det Det linalg_inv linalg_solve svd cholesky": ("use a fixed number of products by torch.matmul"),
    "QuantizeLinear DequantizeLinear FakeQuantize": ("export the model before it is quantised"),
}
"""By operators, with spaces between their names; those that ONNX has no word for have torch's names."""

SUGGESTIONS = {name: text for names, text in _ALTERNATIVES.items() for name in names.split()}

IN_GENERAL = "write it with supported operators, or add a gradient rule (docs/adding-an-op.md)"


def suggestion(op_type: str) -> str:
    """What to use instead of an operator without a gradient rule."""
    return SUGGESTIONS.get(op_type) or SUGGESTIONS.get(op_type.rstrip("_")) or IN_GENERAL
