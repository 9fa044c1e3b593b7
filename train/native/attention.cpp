// The attention layer of a block, forward and backward, a sequence at a time:
//
//     mid = x + W_output · attention(rotate(norm(q)), rotate(norm(k)), v),   (q, k, v) = W_qkv · norm(x)
//
// where the norms of q and k are the model's choice. Backward computes norms and rotations again; what is kept besides
// is q, k, v, the attention's output and its logsumexp. Gradients of weights are summed over sequences in fp32.
//
// Compiled for one HEAD_DIM, a multiple of 16, and for bf16 where BF16 is defined, else for fp32; see block.py.

#include "attention.h"

#include "residual.h"

namespace {

struct Sizes {
    long batch, length, width;  // width = heads · HEAD_DIM

    long heads() const { return width / K; }
    long padded() const { return (length + BLOCK - 1) / BLOCK * BLOCK; }
};

// Gains of q and k are null where the model does not norm them. Tables of the rotation are (length, HEAD_DIM / 2).
struct Weights {
    const float *gain, *query_gain, *key_gain, *qkv, *output, *cos, *sin;

    Weight qkv_of(long width) const { return {qkv, 3 * width, width, false}; }
    Weight output_of(long width) const { return {output, width, width, false}; }
};

// Kept from forward for backward: (batch, 3 heads, length, HEAD_DIM), each a matrix of its own so that memory is passed
// over in order; (batch, length, width); (batch, heads, length).
struct Kept {
    Element *qkv, *y;
    float* logsumexp;
};

// Gradients, in the order of the inputs; of the weights in fp32.
struct Pulls {
    Element* x;
    float *gain, *query_gain, *key_gain, *qkv, *output;
};

// Rotates each pair (k, k + K / 2) by its position's angle, or with direction -1 back (Su et al. 2021, arXiv
// 2104.09864).
inline void rotate(float* row, const float* cos, const float* sin, float direction) {
    for (long k = 0; k < K / 2; k++) {
        const float first = row[k], second = row[k + K / 2], s = sin[k] * direction;
        row[k] = first * cos[k] - second * s, row[k + K / 2] = second * cos[k] + first * s;
    }
}

// Queries or keys of one head, normed where there is a gain, and rotated: dense rows.
void rotated(const Element* from, const float* gain, const Weights& w, float eps, long length, Element* to) {
    for (long t = 0; t < length; t++, from += K, to += K) {
        alignas(64) float row[K];
        const float scale = gain ? norm_scale(K, eps, [&](long d) { return load_row(from + d); }) : 1;
        for (long d = 0; d < K; d += LANES)
            store(row + d, load_row(from + d) * (gain ? load<Floats>(gain + d) * scale : Floats{} + 1));
        rotate(row, w.cos + t * K / 2, w.sin + t * K / 2, 1);
        for (long d = 0; d < K; d += LANES) store_row(to + d, load<Floats>(row + d));
    }
}

// From gradients of what `rotated` gave, rows `stride` apart, in place, those of what it was given; adds that of the
// gain.
void rotated_backward(const Element* from, Element* pull, long stride, const float* gain, const Weights& w, float eps,
                      long length, float* gain_pull) {
    for (long t = 0; t < length; t++, from += K, pull += stride) {
        alignas(64) float row[K];
        for (long d = 0; d < K; d += LANES) store(row + d, load_row(pull + d));
        rotate(row, w.cos + t * K / 2, w.sin + t * K / 2, -1);
        const auto x = [&](long d) { return load_row(from + d); };
        const auto emit = [&](long d, Floats y) { store_row(pull + d, y); };
        if (gain)
            norm_backward(x, gain, row, norm_scale(K, eps, x), K, gain_pull, emit);
        else
            for (long d = 0; d < K; d += LANES) emit(d, load<Floats>(row + d));
    }
}

void forward_layer(const Sizes& n, float eps, const Weights& w, const Element* x, const Kept& kept, Element* mid) {
    const long T = n.padded(), D = n.width, words = D / PER_WORD;
    Buffer buffer;
    const Right qkv = pack_columns(w.qkv_of(D), buffer), output = pack_columns(w.output_of(D), buffer);
    Element *h = buffer.elements(T * D), *y = buffer.elements(T * D), *q = buffer.elements(T * K),
            *k = buffer.elements(T * K);
    std::memset(y, 0, sizeof(Element) * T * D);
    for (long b = 0; b < n.batch; b++) {
        const Element* stream = x + b * n.length * D;
        Element *kept_qkv = kept.qkv + b * n.length * 3 * D, *to = mid + b * n.length * D;
        norm_rows(stream, w.gain, eps, n.length, T, D, h);
        product(h, words, qkv, words, T, 3 * D, [&](long m, long column, auto& c) {
            for (long j = 0; j < width(c); j++) {
                const long d = column + j * LANES;
                Element* to = kept_qkv + d / K * n.length * K + m * K + d % K;
                for (long i = 0; i < height(c) && m + i < n.length; i++) store_row(to + i * K, c[i][j]);
            }
        });
        for (long head = 0; head < n.heads(); head++) {
            Element *q_kept = kept_qkv + head * n.length * K, *k_kept = q_kept + n.length * D,
                    *v_kept = k_kept + n.length * D;
            rotated(q_kept, w.query_gain, w, eps, n.length, q);
            rotated(k_kept, w.key_gain, w, eps, n.length, k);
            forward_head({q, K, n.length, T}, {k, K, n.length, T}, {v_kept, K, n.length, T},
                         {y + head * K, D, n.length, T}, kept.logsumexp + (b * n.heads() + head) * n.length, buffer);
        }
        std::memcpy(kept.y + b * n.length * D, y, sizeof(Element) * n.length * D);
        residual_product(y, output, words, stream, n.length, T, D, to);
    }
}

void backward_layer(const Sizes& n, float eps, const Weights& w, const Element* x, const Kept& kept,
                    const Element* d_mid, const Pulls& pulls) {
    const long T = n.padded(), D = n.width, words = D / PER_WORD, t_words = T / PER_WORD;
    Buffer buffer;
    const Right qkv = pack_pairs(w.qkv_of(D), buffer), output = pack_pairs(w.output_of(D), buffer);
    const Right y_pairs = in_panels(buffer, t_words, D), d_qkv_pairs = in_panels(buffer, t_words, 3 * D);
    Element *dy = buffer.elements(T * D), *da = buffer.elements(T * D), *h = buffer.elements(T * D),
            *d_qkv = buffer.elements(T * 3 * D), *q = buffer.elements(T * K), *k = buffer.elements(T * K);
    int32_t* left = buffer.words(D * t_words);
    float* pull = buffer.floats(T * D);
    const Sums output_pull = sums_of(buffer, D, D), qkv_pull = sums_of(buffer, D, 3 * D);
    for (long b = 0; b < n.batch; b++) {
        const Element* stream = x + b * n.length * D;
        Element *kept_qkv = kept.qkv + b * n.length * 3 * D, *kept_y = kept.y + b * n.length * D;
        copy_rows(d_mid + b * n.length * D, n.length, T, D, dy);
        product(dy, words, output, words, T, D, [&](long m, long column, auto& c) {
            for (long i = 0; i < height(c); i++)
                for (long j = 0; j < width(c); j++) store_row(da + (m + i) * D + column + j * LANES, c[i][j]);
        });
        turn(dy, T, D, left, buffer);
        pack_pairs(kept_y, D, n.length, T, D, y_pairs);
        add_to(output_pull, 0, left, t_words, y_pairs, t_words, D, D);
        for (long head = 0; head < n.heads(); head++) {
            Element *q_kept = kept_qkv + head * n.length * K, *k_kept = q_kept + n.length * D,
                    *v_kept = k_kept + n.length * D, *to = d_qkv + head * K;
            const auto matrix = [&](Element* data, long stride) { return Matrix{data, stride, n.length, T}; };
            rotated(q_kept, w.query_gain, w, eps, n.length, q);
            rotated(k_kept, w.key_gain, w, eps, n.length, k);
            backward_head(matrix(q, K), matrix(k, K), matrix(v_kept, K), matrix(kept_y + head * K, D),
                          matrix(da + head * K, D), matrix(to, 3 * D), matrix(to + D, 3 * D), matrix(to + 2 * D, 3 * D),
                          kept.logsumexp + (b * n.heads() + head) * n.length, buffer);
            rotated_backward(q_kept, to, 3 * D, w.query_gain, w, eps, n.length, pulls.query_gain);
            rotated_backward(k_kept, to + D, 3 * D, w.key_gain, w, eps, n.length, pulls.key_gain);
        }
        std::memset(d_qkv + n.length * 3 * D, 0, sizeof(Element) * (T - n.length) * 3 * D);
        norm_rows(stream, w.gain, eps, n.length, T, D, h);
        turn(h, T, D, left, buffer);
        pack_pairs(d_qkv, 3 * D, T, T, 3 * D, d_qkv_pairs);
        add_to(qkv_pull, 0, left, t_words, d_qkv_pairs, t_words, D, 3 * D);
        product(d_qkv, 3 * words, qkv, 3 * words, T, D,
                [&](long m, long column, auto& c) { store_sums(c, pull + m * D + column, D); });
        residual_backward(stream, dy, w.gain, pull, eps, n.length, D, pulls.gain, pulls.x + b * n.length * D);
    }
    unpack(output_pull, w.output_of(D), pulls.output);
    unpack_transposed(qkv_pull, w.qkv_of(D), pulls.qkv);
}

}  // namespace

extern "C" {
void forward(const Sizes* n, const float* eps, const Weights* w, const Element* x, const Kept* kept, Element* mid) {
    const Tiles tiles;
    forward_layer(*n, *eps, *w, x, *kept, mid);
}

// Gradients of gains are added to what is there.
void backward(const Sizes* n, const float* eps, const Weights* w, const Element* x, const Kept* kept,
              const Element* d_mid, const Pulls* pulls) {
    const Tiles tiles;
    backward_layer(*n, *eps, *w, x, *kept, d_mid, *pulls);
}
}
