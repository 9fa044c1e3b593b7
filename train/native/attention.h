// Causal attention of one sequence and head, forward and backward, in the caches of one core.
//
// Y = softmax(Q K^T / sqrt(HEAD_DIM)) V, row t over keys s <= t. Scores exist for 32 queries (backward: 32 keys) at a
// time; backward computes them again from their logsumexp (Dao et al. 2022, FlashAttention, arXiv 2205.14135,
// algorithms 1 and 4), but the softmax itself is not tiled: a strip of 32 rows fits the cache whole.
//
// A matrix X[t][k] is packed in up to four ways (words: see vectors.h):
//   rows    [t][k words]   a left factor, reduced over k        columns  [k words][t]   a right factor, reduced over k
//   pairs   [t words][k]   a right factor, reduced over t       turned   [k][t words]   a left factor, reduced over t

#pragma once

#include "products.h"

namespace {

constexpr long K = HEAD_DIM, K_WORDS = K / PER_WORD, BLOCK = 32;
constexpr long WIDE = K % (2 * LANES) == 0 ? 2 : 1;  // vectors of a tile along K

// X[t][k] of one sequence and head, of which rows from `length` up to `padded` are zero.
struct Matrix {
    Element* data;
    long stride, length, padded;

    void rows(int32_t* to) const {
        for (long t = 0; t < length; t++) std::memcpy(to + t * K_WORDS, data + t * stride, sizeof(Element) * K);
        std::memset(to + length * K_WORDS, 0, sizeof(Element) * (padded - length) * K);
    }
    void pairs(int32_t* to) const { pack_pairs(data, stride, length, padded, K, in_rows(to, K)); }
};

// Of base-2 logits of the BLOCK queries from `start` on, the softmax before its division by the total; keys after the
// query are masked. All maxima first, for a row by itself would wait for its own.
__attribute__((noinline)) void softmax(float* scores, long start, int32_t* to, float* tops, float* totals) {
    const long n = start + BLOCK;
    for (long m = 0; m < BLOCK; m++) {
        float* row = scores + m * n;
        for (long s = 0; s < BLOCK; s += LANES)
            store(row + start + s,
                  lane_numbers() + int32_t(s) > int32_t(m) ? Floats{} - INFINITY : load<Floats>(row + start + s));
        tops[m] = largest_of(row, n);
    }
    for (long m = 0; m < BLOCK; m++) {
        const float *row = scores + m * n, top = tops[m];
        Floats sum = {};
        for (long s = 0; s < n; s += 2 * LANES) {
            const Floats x = power_of_two(load<Floats>(row + s) - top),
                         y = power_of_two(load<Floats>(row + s + LANES) - top);
            sum += x + y;
            store_two(to + (m * n + s) / PER_WORD, x, y);
        }
        totals[m] = total(sum);
    }
}

// out[start + m] = factors[m] · sum over `depth` words of weights[m] . pairs, for BLOCK rows m.
inline void combine(const int32_t* weights, long stride, const int32_t* pairs, long depth, const float* factors,
                    Matrix out, long start) {
    for (long m = 0; m < BLOCK; m += ROWS)
        for (long d = 0; d < K; d += WIDE * LANES) {
            Floats c[ROWS][WIDE];
            multiply(c, weights + m * stride, stride, pairs + d, K, depth);
            for (long i = 0; i < ROWS && start + m + i < out.length; i++)
                for (long j = 0; j < WIDE; j++)
                    store_row(out.data + (start + m + i) * out.stride + d + j * LANES, c[i][j] * factors[m + i]);
        }
}

void forward_head(Matrix q, Matrix k, Matrix v, Matrix y, float* logsumexp, Buffer buffer) {
    const long T = q.padded, stride = T + LANES;       // rows a power of two apart would share few lines of the cache
    const float scale = LOG2_E / std::sqrt(float(K));  // all exponentials are powers of two
    int32_t *q_rows = buffer.words(T * K_WORDS), *k_columns = buffer.words(stride * K_WORDS),
            *v_pairs = buffer.words(T * K_WORDS);
    float* scores = buffer.floats(BLOCK * T);
    int32_t* weights = buffer.words(BLOCK * T / PER_WORD);
    k.rows(q_rows), transpose(q_rows, T, K_WORDS, k_columns, stride);
    q.rows(q_rows), v.pairs(v_pairs);
    for (long start = 0; start < T; start += BLOCK) {
        const long stop = start + BLOCK, words = stop / PER_WORD;
        float tops[BLOCK], totals[BLOCK];
        for (long m = 0; m < BLOCK; m += ROWS)
            for (long s = 0; s < stop; s += 2 * LANES) {
                Floats c[ROWS][2];
                multiply(c, q_rows + (start + m) * K_WORDS, K_WORDS, k_columns + s, stride, K_WORDS);
                for (long i = 0; i < ROWS; i++)
                    for (long j = 0; j < 2; j++) store(scores + (m + i) * stop + s + j * LANES, c[i][j] * scale);
            }
        softmax(scores, start, weights, tops, totals);
        for (long m = 0; m < BLOCK; m++) {
            if (start + m < y.length) logsumexp[start + m] = tops[m] + std::log2(totals[m]);
            totals[m] = 1 / totals[m];
        }
        combine(weights, words, v_pairs, words, totals, y, start);
    }
}

void backward_head(Matrix q, Matrix k, Matrix v, Matrix y, Matrix dy, Matrix dq, Matrix dk, Matrix dv,
                   const float* logsumexp, Buffer buffer) {
    constexpr long HALF = ROWS > 16 ? ROWS : ROWS / 2;  // two tiles share the registers
    const long T = q.padded, stride = T + LANES, t_words = T / PER_WORD, row = stride / PER_WORD, length = q.length;
    const float scale = 1 / std::sqrt(float(K)), log_scale = LOG2_E * scale;
    int32_t* packed[7];
    for (int32_t*& matrix : packed) matrix = buffer.words(stride * K_WORDS);
    auto [k_rows, v_rows, k_turned, q_columns, dy_columns, q_pairs, dy_pairs] = packed;
    float *offsets = buffer.floats(T), *deltas = buffer.floats(T);
    const Sums dq_turned = sums_of(buffer, K, T);
    int32_t *p = buffer.words(BLOCK * row), *ds = buffer.words(BLOCK * row), *ds_pairs = buffer.words(BLOCK * row);
    q.rows(k_rows), transpose(k_rows, T, K_WORDS, q_columns, stride);
    dy.rows(k_rows), transpose(k_rows, T, K_WORDS, dy_columns, stride);
    k.pairs(q_pairs), transpose(q_pairs, t_words, K, k_turned, row);
    k.rows(k_rows), v.rows(v_rows), q.pairs(q_pairs), dy.pairs(dy_pairs);
    for (long t = 0; t < T; t++) {
        Floats sum = {};
        for (long d = 0; d < K && t < length; d += LANES)
            sum += load_row(dy.data + t * dy.stride + d) * load_row(y.data + t * y.stride + d);
        deltas[t] = total(sum), offsets[t] = t < length ? logsumexp[t] : INFINITY;  // padding has a softmax of 0
    }
    float ones[BLOCK], scales[BLOCK];
    for (long m = 0; m < BLOCK; m++) ones[m] = 1, scales[m] = scale;
    for (long start = 0; start < T;
         start += BLOCK) {  // a strip: the softmax and its gradient, transposed, for queries from `start` on
        for (long t = start; t < T; t += 2 * LANES)
            for (long m = 0; m < BLOCK; m += HALF) {
                Floats c[HALF][2], e[HALF][2];
                multiply(c, k_rows + (start + m) * K_WORDS, K_WORDS, q_columns + t, stride, K_WORDS);
                multiply(e, v_rows + (start + m) * K_WORDS, K_WORDS, dy_columns + t, stride, K_WORDS);
                for (long j = 0; j < 2; j++) {
                    const Floats offset = load<Floats>(offsets + t + j * LANES),
                                 delta = load<Floats>(deltas + t + j * LANES);
                    for (long i = 0; i < HALF; i++) {
                        c[i][j] = power_of_two(c[i][j] * log_scale - offset);
                        if (t < start + BLOCK)
                            c[i][j] =
                                lane_numbers() + int32_t(t - start + j * LANES) < int32_t(m + i) ? Floats{} : c[i][j];
                        e[i][j] = c[i][j] * (e[i][j] - delta);
                    }
                }
                for (long i = 0; i < HALF; i += 2) {
                    int32_t *p_row = p + (m + i) * row + t / PER_WORD, *ds_row = ds + (m + i) * row + t / PER_WORD;
                    store_two(p_row, c[i][0], c[i][1]), store_two(p_row + row, c[i + 1][0], c[i + 1][1]);
                    store_tile(ds_row, ds_row + row, ds_pairs + (m + i) / PER_WORD * stride + t, stride, e[i],
                               e[i + 1]);
                }
            }
        const long seen = start / PER_WORD, depth = t_words - seen;
        combine(p + seen, row, dy_pairs + seen * K, depth, ones, dv, start);
        combine(ds + seen, row, q_pairs + seen * K, depth, scales, dk, start);
        add_to(dq_turned, start, k_turned + seen, row, in_rows(ds_pairs + start, stride), BLOCK / PER_WORD, K,
               T - start);
    }
    transposed(dq_turned, T, [&](long t, long d, Floats x) {
        if (t < length) store_row(dq.data + t * dq.stride + d, x * scale);
    });
}

}  // namespace
