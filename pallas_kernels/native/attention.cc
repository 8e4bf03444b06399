// ragged_attention: the rows of a step over the paged pool. Rows with one token are cut into chunks of keys, prompts into
// tiles of query tokens; all of them, for every kv head, are one queue of work.

#include "attend_rounded.h"
#include "attend_vector.h"
#include "decode_pairs.h"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace jaxpaged {
namespace {

namespace ffi = xla::ffi;

struct Scratch {
  VectorScratch vector;
#ifdef __AVX512BF16__
  StepScratch step;
#endif
};

Scratch& scratch_of_thread() {
  static thread_local Scratch memory;
  return memory;
}

// the pieces of decode rows that have more than one chunk, until the last of a row and head is there
struct Pieces {
  std::vector<int32_t> first;  // of each row: its first piece for head 0; heads follow chunk by chunk
  std::vector<std::atomic<int32_t>> missing;  // [S, K]
  std::vector<float> sums, totals;
  std::vector<int> tops;
};

struct Work {
  std::vector<Tile> tiles;  // of prompts, then of decode rows
  int64_t num_prompt_tiles = 0;
  Pieces pieces;
};

template <typename S>
int32_t chunks_before(const Attention<S>& a, int32_t kv_len) {
  return a.window > 0 ? std::max<int64_t>(kv_len - a.window, 0) / kChunk : 0;
}

template <typename S>
Work plan(const Attention<S>& a) {
  Work work;
  const int64_t group = a.group();
  const int32_t tile_tokens = group <= 4 ? 32 : 16;
  int32_t pieces = 0;
  for (int32_t row = 0; row < a.rows; ++row) {
    const int32_t first = a.cu_q_lens[row], count = a.cu_q_lens[row + 1] - first, kv_len = a.kv_lens[row];
    if (count <= 1 || kv_len <= 0) continue;
    for (int32_t head = 0; head < a.kv_heads; ++head) {
      for (int32_t t = 0; t < count; t += tile_tokens) {
        work.tiles.push_back({row, head, first + t, std::min(tile_tokens, count - t), kv_len - count + t, kv_len, -1});
      }
    }
  }
  // the longest first: the tiles that see most keys, then the chunks of decode rows
  std::sort(work.tiles.begin(), work.tiles.end(), [](const Tile& x, const Tile& y) { return x.position > y.position; });
  work.num_prompt_tiles = work.tiles.size();
  work.pieces.first.assign(a.rows, 0);
  for (int32_t row = 0; row < a.rows; ++row) {
    const int32_t first = a.cu_q_lens[row], count = a.cu_q_lens[row + 1] - first, kv_len = a.kv_lens[row];
    if (count != 1 || kv_len <= 0) continue;
    const int32_t begin = chunks_before(a, kv_len), end = (kv_len + kChunk - 1) / kChunk;
    work.pieces.first[row] = pieces;
    pieces += (end - begin) * a.kv_heads;
    for (int32_t chunk = begin; chunk < end; ++chunk) {
      for (int32_t head = 0; head < a.kv_heads; ++head) work.tiles.push_back({row, head, first, 1, kv_len - 1, kv_len, chunk});
    }
  }
  work.pieces.missing = std::vector<std::atomic<int32_t>>(a.rows * a.kv_heads);
  work.pieces.sums.resize(pieces * group * a.head_dim);
  work.pieces.totals.resize(pieces * group);
  work.pieces.tops.resize(pieces * group);
  return work;
}

template <typename S>
void attend_chunk_of(const Attention<S>& a, const Tile& tile, const Tile* next, float* piece, float* totals, int* tops) {
  VectorScratch& memory = scratch_of_thread().vector;
#ifdef __AVX512BF16__
  if constexpr (std::is_same_v<S, Bf16>) {
    if (a.rounded && InPairs::serves(a.head_dim)) return attend_chunk<InPairs>(a, tile, next, memory, piece, totals, tops);
  }
#endif
  attend_chunk<InFloat32>(a, tile, next, memory, piece, totals, tops);
}

// one chunk of a decode row; whoever brings the last one adds them all, in their order
template <typename S>
void attend_decode(const Attention<S>& a, const Tile& tile, const Tile* next, Pieces& pieces) {
  const int64_t group = a.group(), size = group * a.head_dim;
  const int32_t begin = chunks_before(a, tile.kv_len), count = (tile.kv_len + kChunk - 1) / kChunk - begin;
  const int64_t mine = pieces.first[tile.row] + (tile.chunk - begin) * a.kv_heads + tile.head;
  attend_chunk_of(a, tile, next, &pieces.sums[mine * size], &pieces.totals[mine * group], &pieces.tops[mine * group]);
  if (pieces.missing[tile.row * a.kv_heads + tile.head].fetch_add(1, std::memory_order_acq_rel) + 1 < count) return;
  const int64_t first = pieces.first[tile.row] + tile.head;
  for (int64_t g = 0; g < group; ++g) {
    float* acc = scratch(scratch_of_thread().vector.acc, a.head_dim);
    std::fill_n(acc, a.head_dim, 0.0f);
    float total = 0;
    int top = kLowest;
    for (int32_t chunk = 0; chunk < count; ++chunk) {
      const int64_t piece = first + chunk * a.kv_heads;
      merge(acc, total, top, &pieces.sums[piece * size + g * a.head_dim], pieces.totals[piece * group + g],
            pieces.tops[piece * group + g], a.head_dim);
    }
    const int64_t h = tile.head * group + g;
    finish_row(acc, total, top, a.sinks ? a.sinks + h : nullptr, a.head_dim);
    a.write_out((tile.first * a.heads + h) * a.head_dim, a.head_dim, acc);
  }
}

template <typename S>
void attend_prompt(const Attention<S>& a, const Tile& tile) {
  if constexpr (!std::is_same_v<S, float>) {
#ifdef JAXPAGED_AMX
    if (a.rounded && amx_granted()) return attend_tile_rounded<AmxSteps>(a, tile, scratch_of_thread().step);
#endif
#ifdef __AVX512BF16__
    if (a.rounded) return attend_tile_rounded<PairSteps>(a, tile, scratch_of_thread().step);
#endif
  }
  attend_tile(a, tile, scratch_of_thread().vector);
}

template <typename S>
void attend(const Attention<S>& a, ffi::ThreadPool& pool) {
  const int64_t row = a.heads * a.head_dim;
  for (int32_t i = 0; i < a.rows; ++i) {
    if (a.kv_lens[i] <= 0) a.write_zeros(a.cu_q_lens[i] * row, (a.cu_q_lens[i + 1] - a.cu_q_lens[i]) * row);
  }
  a.write_zeros(a.cu_q_lens[a.rows] * row, (a.tokens - a.cu_q_lens[a.rows]) * row);
  Work work = plan(a);
  // runs of neighbouring decode tiles: the heads of a chunk lie side by side in memory
  const int64_t count = work.tiles.size(), prompts = work.num_prompt_tiles, rest = count - prompts;
  const int64_t run = std::clamp<int64_t>(rest / (4 * pool.num_threads()), 1, a.kv_heads);
  parallel_for(pool, prompts + (rest + run - 1) / run, [&a, &work, count, prompts, run](int64_t i) {
    if (i < prompts) return attend_prompt(a, work.tiles[i]);
    const int64_t first = prompts + (i - prompts) * run, end = std::min(first + run, count);
    for (int64_t t = first; t < end; ++t) {
      attend_decode(a, work.tiles[t], t + 1 < end ? &work.tiles[t + 1] : nullptr, work.pieces);
    }
  });
}

const float* or_null(const ffi::Buffer<ffi::F32>& array) { return array.element_count() ? array.typed_data() : nullptr; }

template <typename S>
ffi::Error attend_pool(ffi::ThreadPool pool, ffi::AnyBuffer q, ffi::Buffer<ffi::F32> cos, ffi::Buffer<ffi::F32> sin,
                       ffi::AnyBuffer k, ffi::AnyBuffer v, ffi::Buffer<ffi::F32> k_scale, ffi::Buffer<ffi::F32> v_scale,
                       ffi::Buffer<ffi::F32> sinks, ffi::Buffer<ffi::S32> cu_q_lens, ffi::Buffer<ffi::S32> kv_lens,
                       ffi::Buffer<ffi::S32> tables, ffi::Result<ffi::AnyBuffer> out, float scale, float softcap,
                       int64_t window) {
  const auto q_shape = q.dimensions(), v_shape = v.dimensions(), table_shape = tables.dimensions();
  const bool q_is_bf16 = q.element_type() == ffi::BF16, rounded = out->element_type() == ffi::BF16;
  if ((q.element_type() != ffi::F32 && !q_is_bf16) || (out->element_type() != ffi::F32 && !rounded)) {
    return ffi::Error::InvalidArgument("q and the result must be float32 or bfloat16");
  }
  if (q_shape.size() != 3 || v_shape.size() != 4 || table_shape.size() != 2) {
    return ffi::Error::InvalidArgument("q must be [T, H, D], v [N, K, P, D], tables [S, W]");
  }
  const int64_t pairs = q_shape[0] ? static_cast<int64_t>(cos.element_count()) / q_shape[0] : 0;
  if (q_is_bf16 && (pairs || !rounded)) return ffi::Error::InvalidArgument("bfloat16 queries are neither rotated nor widened");
  attend(Attention<S>{q_shape[0], q_shape[1], v_shape[1], q_shape[2], table_shape[0], table_shape[1], v_shape[2], window,
                      scale, softcap, q.untyped_data(), static_cast<const S*>(k.untyped_data()),
                      static_cast<const S*>(v.untyped_data()), or_null(k_scale), or_null(v_scale), or_null(sinks),
                      cu_q_lens.typed_data(), kv_lens.typed_data(), tables.typed_data(),
                      {cos.typed_data(), sin.typed_data(), pairs}, out->untyped_data(), q_is_bf16, rounded},
         pool);
  return ffi::Error::Success();
}

}  // namespace

#pragma GCC visibility push(default)  // what Python looks up; all else is hidden

#define JAXPAGED_ATTENTION(name, type)                                                                        \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name, attend_pool<type>,                                                      \
                                ffi::Ffi::Bind()                                                              \
                                    .Ctx<ffi::ThreadPool>()                                                   \
                                    .Arg<ffi::AnyBuffer>()                                                    \
                                    .Arg<ffi::Buffer<ffi::F32>>()                                             \
                                    .Arg<ffi::Buffer<ffi::F32>>()                                             \
                                    .Arg<ffi::AnyBuffer>()                                                    \
                                    .Arg<ffi::AnyBuffer>()                                                    \
                                    .Arg<ffi::Buffer<ffi::F32>>()                                             \
                                    .Arg<ffi::Buffer<ffi::F32>>()                                             \
                                    .Arg<ffi::Buffer<ffi::F32>>()                                             \
                                    .Arg<ffi::Buffer<ffi::S32>>()                                             \
                                    .Arg<ffi::Buffer<ffi::S32>>()                                             \
                                    .Arg<ffi::Buffer<ffi::S32>>()                                             \
                                    .Ret<ffi::AnyBuffer>()                                             \
                                    .Attr<float>("scale")                                                     \
                                    .Attr<float>("softcap")                                                   \
                                    .Attr<int64_t>("window"))

JAXPAGED_ATTENTION(jaxpaged_attention_float32, float);
JAXPAGED_ATTENTION(jaxpaged_attention_bfloat16, Bf16);
JAXPAGED_ATTENTION(jaxpaged_attention_int8, Int8);
JAXPAGED_ATTENTION(jaxpaged_attention_float8_e4m3fn, Fp8);

}  // namespace jaxpaged

// 1: the AMX unit may be used, -1: the kernel refuses it, 0: there is none, or the compiler does not know it
extern "C" int jaxpaged_amx() {
#ifdef JAXPAGED_AMX
  return jaxpaged::amx_granted() ? 1 : -1;
#else
  return 0;
#endif
}

#pragma GCC visibility pop
