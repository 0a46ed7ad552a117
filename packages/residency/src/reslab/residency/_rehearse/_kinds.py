"""Operations whose bytes are their cost, by kind, where torch's own tags (pointwise, reduction) do not say it.

An operation that is neither here, nor tagged, nor in torch's registry of FLOPs is one that nobody can cost.
"""

from __future__ import annotations

_KINDS = {
    "elementwise": "polar complex",
    "norm": """
        native_layer_norm native_group_norm native_batch_norm _native_batch_norm_legit_no_training
        _fused_rms_norm _native_batch_norm_legit batch_norm_elemt
    """,
    "reduction": """
        _softmax _safe_softmax _log_softmax softmax log_softmax argmax argmin argsort sort topk cumsum cumprod
        max min linalg_vector_norm norm std var var_mean std_mean any all _weight_norm_interface logsumexp
        searchsorted nonzero unique_consecutive bucketize
    """,
    "copy": """
        _to_copy clone copy copy_ cat stack repeat repeat_interleave constant_pad_nd reflection_pad1d
        reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d fill_ fill zero_
        roll flip tril triu slice_scatter select_scatter pixel_shuffle pixel_unshuffle channel_shuffle
        _unsafe_masked_index unfold_copy im2col _pad_circular set_ resize_ masked_scatter diag_embed
        _reshape_copy lift_fresh_copy view_copy
    """,
    "index": """
        embedding index index_select gather index_put index_put_ _index_put_impl_ scatter scatter_ scatter_add
        index_add index_copy index_copy_ take_along_dim _unsafe_index _unsafe_index_put masked_select index_fill
    """,
    "create": """
        empty empty_strided zeros ones full arange linspace eye new_empty new_zeros new_ones new_full
        new_empty_strided empty_like zeros_like ones_like full_like scalar_tensor hann_window hamming_window
        logspace tril_indices triu_indices empty_permuted one_hot
    """,
    "random": """
        randn rand randint randn_like rand_like randint_like normal normal_ uniform_ bernoulli bernoulli_
        randperm exponential_ random_ multinomial
    """,
    "resample": """
        upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_bilinear2d upsample_bicubic2d
        upsample_linear1d upsample_trilinear3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
        _upsample_nearest_exact2d avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d
        max_pool2d_with_indices max_pool3d_with_indices grid_sampler_2d
    """,
}

#: Operation → kind.
KIND_OF = {name: kind for kind, names in _KINDS.items() for name in names.split()}
