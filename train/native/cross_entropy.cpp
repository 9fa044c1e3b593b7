// Final norm, logits, cross-entropy and their gradients, in one pass over strips of tokens; see
// models/cross_entropy.py, whose formulas these are; and the scores of evaluation, see models/transformer.py. Powers of
// two are kept undivided by their total, which goes into the factor that each token's row has anyway.
//
// T tokens, D width, V vocabulary. Logits exist for 32 tokens and their softmax for 128 at a time. Packed as in
// attention.h: the table W[v][d] as columns [d words][v] and pairs [v words][d], the softmax of a strip P[t][v] as
// rows and pairs.
//
// Compiled for bf16 where BF16 is defined, else for fp32; sums are fp32.

#include "products.h"
#include "residual.h"

namespace {

constexpr long BLOCK = 32, STRIP = 128;

struct Sizes {
    long tokens, width, vocabulary;
    long padded() const { return (vocabulary + BLOCK - 1) / BLOCK * BLOCK; }
};

struct Numbers {
    float eps, z_loss;
};

// Sums over the tokens, and the objective's gradients.
struct Gradients {
    float* loss;
    float* squares;  // of the logsumexp
    Element* x_pull;
    float* gain_pull;
    float* weight_pull;
};

// The table's columns; its rows, padded with zeros, are left in `rows`.
Right columns_of(const Sizes& n, const float* weight, Element* rows, Buffer& buffer) {
    const long words = n.width / PER_WORD, stride = n.padded() + BLOCK;  // rows a power of two apart share few lines
    int32_t* columns = buffer.words(stride * words);
    for (long i = 0; i < n.vocabulary * n.width; i += LANES) store_row(rows + i, load<Floats>(weight + i));
    std::memset(rows + n.vocabulary * n.width, 0, sizeof(Element) * (n.padded() - n.vocabulary) * n.width);
    transpose(reinterpret_cast<int32_t*>(rows), n.padded(), words, columns, stride);
    return in_rows(columns, stride);
}

// Of BLOCK rows of logits, 2^(x log2 e - top) as rows and as pairs, with top and total of each row.
void powers(float* logits, long vocabulary, long padded, long stride, int32_t* rows, int32_t* pairs, float* tops,
            float* totals) {
    for (long m = 0; m < BLOCK; m++) {
        float* row = logits + m * stride;
        for (long v = vocabulary; v < padded; v++) row[v] = -INFINITY;
        tops[m] = largest_of(row, padded) * LOG2_E;
    }
    for (long m = 0; m < BLOCK; m += 2) {
        const float *first = logits + m * stride, *second = first + stride;
        Floats sum = {}, other = {};
        for (long v = 0; v < padded; v += 2 * LANES) {
            Floats a[2], b[2];
            for (long j = 0; j < 2; j++) {
                a[j] = power_of_two(load<Floats>(first + v + j * LANES) * LOG2_E - tops[m]);
                b[j] = power_of_two(load<Floats>(second + v + j * LANES) * LOG2_E - tops[m + 1]);
            }
            int32_t* row = rows + (m * stride + v) / PER_WORD;
            store_tile(row, row + stride / PER_WORD, pairs + m / PER_WORD * stride + v, stride, a, b);
            sum += a[0] + a[1], other += b[0] + b[1];
        }
        totals[m] = total(sum), totals[m + 1] = total(other);
    }
}

void gradients_of(const Sizes& n, const Numbers& c, const Element* x, const float* gain, const float* weight,
                  const int64_t* targets, Gradients to) {
    const long D = n.width, V = n.padded(), d_words = D / PER_WORD, v_words = V / PER_WORD, t_words = STRIP / PER_WORD;
    const long stride = V + BLOCK;  // rows a power of two apart would share few lines of the cache
    Buffer buffer;
    Element* w = buffer.elements(V * D);
    const Right w_columns = columns_of(n, weight, w, buffer);
    int32_t* w_pairs = buffer.words(v_words * D);
    int32_t *p_rows = buffer.words(STRIP * stride / PER_WORD), *p_pairs = buffer.words(t_words * stride);
    Element* y = buffer.elements(STRIP * D);
    int32_t *scaled_pairs = buffer.words(t_words * D), *scaled_turned = buffer.words(t_words * D);
    float *logits = buffer.floats(BLOCK * stride), *pull = buffer.floats(STRIP * D);
    const Sums w_pull_turned = sums_of(buffer, D, V);
    pack_pairs(w, D, V, V, D, in_rows(w_pairs, D));
    const float one = 1.0f / n.tokens;
    double loss = 0, squares = 0;
    for (long start = 0; start < n.tokens; start += STRIP) {
        const long here = n.tokens - start < STRIP ? n.tokens - start : STRIP;
        float scales[STRIP], tops[STRIP], totals[STRIP], shares[STRIP];
        std::memset(y, 0, sizeof(Element) * STRIP * D);
        for (long t = 0; t < here; t++) {
            const Element* row = x + (start + t) * D;
            scales[t] = norm_scale(D, c.eps, [&](long d) { return load_row(row + d); });
            for (long d = 0; d < D; d += LANES)
                store_row(y + t * D + d, load_row(row + d) * scales[t] * load<Floats>(gain + d));
        }
        for (long m = 0; m < STRIP; m += BLOCK) {
            product(y + m * D, d_words, w_columns, d_words, BLOCK, V,
                    [&](long i, long v, auto& tile) { store_sums(tile, logits + i * stride + v, stride); });
            powers(logits, n.vocabulary, V, stride, p_rows + m * stride / PER_WORD, p_pairs + m / PER_WORD * stride,
                   tops + m, totals + m);
        }
        for (long t = 0; t < STRIP; t++) {
            shares[t] = 0;  // of a row beyond the last
            if (t >= here) continue;
            const float logsumexp = (tops[t] + std::log2(totals[t])) * LN_2;
            const Element* target = w + targets[start + t] * D;
            loss += logsumexp - over_width(D, [&](long d) { return load_row(y + t * D + d) * load_row(target + d); });
            squares += double(logsumexp) * logsumexp;
            shares[t] = (1 + 2 * c.z_loss * logsumexp) * one / totals[t];
        }
        for (long t = 0; t < STRIP; t += 2)
            for (long d = 0; d < D; d += LANES)
                store_pairs(scaled_pairs + t / PER_WORD * D + d, D, load_row(y + t * D + d) * shares[t],
                            load_row(y + (t + 1) * D + d) * shares[t + 1]);
        transpose(scaled_pairs, t_words, D, scaled_turned, t_words);
        add_to(w_pull_turned, 0, scaled_turned, t_words, in_rows(p_pairs, stride), t_words, D, V);
        product(p_rows, stride / PER_WORD, in_rows(w_pairs, D), v_words, STRIP, D,
                [&](long m, long d, auto& tile) { store_sums(tile, pull + m * D + d, D); });
        for (long t = 0; t < here; t++) {  // through the norm
            const Element *row = x + (start + t) * D, *target = w + targets[start + t] * D;
            float *y_pull = pull + t * D, *target_pull = to.weight_pull + targets[start + t] * D;
            for (long d = 0; d < D; d += LANES) {
                store(y_pull + d, load<Floats>(y_pull + d) * shares[t] - load_row(target + d) * one);
                store(target_pull + d, load<Floats>(target_pull + d) - load_row(y + t * D + d) * one);
            }
            norm_backward([&](long d) { return load_row(row + d); }, gain, y_pull, scales[t], D, to.gain_pull,
                          [&](long d, Floats x_pull) { store_row(to.x_pull + (start + t) * D + d, x_pull); });
        }
    }
    *to.loss = loss, *to.squares = squares;
    transposed(w_pull_turned, V, [&](long v, long d, Floats pull_of_products) {
        float* at = to.weight_pull + v * D + d;
        if (v < n.vocabulary) store(at, load<Floats>(at) + pull_of_products);
    });
}

// Of each token, the negative log-likelihood of its target in nats, and whether the target is the argmax, the first of
// equals.
void scores_of(const Sizes& n, float eps, const Element* x, const float* gain, const float* weight,
               const int64_t* targets, float* nats, bool* is_largest) {
    const long D = n.width, V = n.padded(), words = D / PER_WORD, stride = V + BLOCK;
    Buffer buffer;
    const Right columns = columns_of(n, weight, buffer.elements(V * D), buffer);
    Element* y = buffer.elements(BLOCK * D);
    float* logits = buffer.floats(BLOCK * stride);
    for (long start = 0; start < n.tokens; start += BLOCK) {
        const long here = n.tokens - start < BLOCK ? n.tokens - start : BLOCK;
        norm_rows(x + start * D, gain, eps, here, BLOCK, D, y);
        product(y, words, columns, words, BLOCK, V,
                [&](long m, long v, auto& tile) { store_sums(tile, logits + m * stride + v, stride); });
        for (long t = 0; t < here; t++) {
            float* row = logits + t * stride;
            for (long v = n.vocabulary; v < V; v++) row[v] = -INFINITY;
            const long target = targets[start + t];
            const float top = largest_of(row, V);
            Floats sum = {};
            for (long v = 0; v < V; v += LANES) sum += power_of_two((load<Floats>(row + v) - top) * LOG2_E);
            nats[start + t] = top - row[target] + std::log2(total(sum)) * LN_2;
            bool largest = row[target] == top;
            for (long v = 0; largest && v < target; v++) largest = row[v] != top;
            is_largest[start + t] = largest;
        }
    }
}

}  // namespace

extern "C" {
void scores(const Sizes* n, const float* eps, const Element* x, const float* gain, const float* weight,
            const int64_t* targets, float* nats, bool* is_largest) {
    const Tiles tiles;
    scores_of(*n, *eps, x, gain, weight, targets, nats, is_largest);
}

// Those of gain and table are added to what is there.
void gradients(const Sizes* n, const Numbers* c, const Element* x, const float* gain, const float* weight,
               const int64_t* targets, const Gradients* to) {
    const Tiles tiles;
    gradients_of(*n, *c, x, gain, weight, targets, *to);
}
}
