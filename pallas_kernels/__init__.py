"""Device ops of jaxpaged: pure functions of arrays, each with one signature, one reference and sibling backends.

Shape letters, the same everywhere:
    T tokens in a step      S rows (requests in a step)   W width of the block tables
    N blocks of the pool    P positions of a block        L layers
    H query heads           K kv heads                    G = H / K query heads of a kv head
    D head dim              E embed                       F feed-forward
    X experts               V vocabulary
    M, A, B rows, inputs and outputs of a matrix product
"""

from pallas_kernels.backend import Backend, choose_backend
from pallas_kernels.grouped_matmul import grouped_matmul
from pallas_kernels.layer_pool import LayerPool
from pallas_kernels.linear import linear
from pallas_kernels.pool_spec import PoolSpec, default_block_size, pool_spec
from pallas_kernels.ragged_attention import AttentionWork, attention_work, ragged_attention
from pallas_kernels.write_kv import write_kv

__all__ = [
    "AttentionWork",
    "Backend",
    "LayerPool",
    "PoolSpec",
    "attention_work",
    "choose_backend",
    "default_block_size",
    "grouped_matmul",
    "linear",
    "pool_spec",
    "ragged_attention",
    "write_kv",
]
