// The MLP of a block, forward and backward, a strip of tokens at a time:
//
//     y = mid + W_down · (silu(gate) · up),   (gate, up) = W_gate_up · norm(mid)       (Shazeer 2020, arXiv 2002.05202)
//
// Gate and up of the same features share a tile, so that the gate is applied to sums that no memory has seen. They are
// kept for backward as they come, panel by panel of a strip, so that memory is passed over in order. Gradients of
// weights are summed over strips in fp32.
//
// Compiled for bf16 where BF16 is defined, else for fp32; see block.py.

#include "products.h"
#include "residual.h"

namespace {

constexpr long STRIP = 256;

struct Sizes {
    long tokens, width, features;

    long strip(long start) const { return tokens - start < STRIP ? tokens - start : STRIP; }
    // Where gate and up of LANES features from `feature` on are kept, of the first token of the strip from `start` on.
    long kept(long start, long feature) const { return start * 2 * features + feature * 2 * strip(start); }
};

struct Weights {
    const float *gain, *gate_up, *down;

    Weight gate_up_of(const Sizes& n) const { return {gate_up, 2 * n.features, n.width, true}; }
    Weight down_of(const Sizes& n) const { return {down, n.width, n.features, false}; }
};

// Gradients, in the order of the inputs; of the weights in fp32.
struct Pulls {
    Element* mid;
    float *gain, *gate_up, *down;
};

// 1 / (1 + e^-x), from a power of at most 2^126.
inline Floats sigmoid(Floats x) {
    const Floats power = x * -LOG2_E;
    return 1.0f / (1.0f + power_of_two(power < 126.0f ? power : Floats{} + 126.0f));
}

long padded(long tokens) { return (tokens + 31) / 32 * 32; }

void forward_layer(const Sizes& n, float eps, const Weights& w, const Element* mid, Element* gate_up, Element* y) {
    const long D = n.width, F = n.features, words = D / PER_WORD, f_words = F / PER_WORD;
    Buffer buffer;
    const Right gate_up_weight = pack_columns(w.gate_up_of(n), buffer), down = pack_columns(w.down_of(n), buffer);
    Element *h = buffer.elements(STRIP * D), *a = buffer.elements(STRIP * F);
    for (long start = 0; start < n.tokens; start += STRIP) {
        const long here = n.strip(start), T = padded(here);
        const Element* stream = mid + start * D;
        Element* to = y + start * D;
        norm_rows(stream, w.gain, eps, here, T, D, h);
        product(h, words, gate_up_weight, words, T, 2 * F, [&](long m, long column, auto& c) {
            Element* kept = gate_up + n.kept(start, column / 2) + m * PANEL;
            for (long i = 0; i < height(c); i++) {
                if (m + i < here) store_two(reinterpret_cast<int32_t*>(kept + i * PANEL), c[i][0], c[i][1]);
                store_row(a + (m + i) * F + column / 2, c[i][0] * sigmoid(c[i][0]) * c[i][1]);
            }
        });
        residual_product(a, down, f_words, stream, here, T, D, to);
    }
}

// Of one vector of features: what went into W_down, and the gradients of gate and up.
struct Gated {
    Floats a, pulls[2];

    Gated(const Element* gate_up, Floats pull) {
        const Floats gate = load_row(gate_up), up = load_row(gate_up + LANES), s = sigmoid(gate);
        a = gate * s * up;
        pulls[0] = pull * up * s * (1.0f + gate * (1.0f - s)), pulls[1] = pull * gate * s;
    }
};

void backward_layer(const Sizes& n, float eps, const Weights& w, const Element* mid, const Element* gate_up,
                    const Element* d_y, const Pulls& pulls) {
    const long D = n.width, F = n.features, words = D / PER_WORD, f_words = F / PER_WORD;
    Buffer buffer;
    const Right gate_up_weight = pack_pairs(w.gate_up_of(n), buffer), down = pack_pairs(w.down_of(n), buffer);
    Element *dy = buffer.elements(STRIP * D), *h = buffer.elements(STRIP * D),
            *d_gate_up = buffer.elements(STRIP * 2 * F);
    int32_t *left = buffer.words(D * STRIP), *a_place = buffer.words(STRIP * (F + PANEL)),
            *d_place = buffer.words(STRIP * 2 * F);
    float* pull = buffer.floats(STRIP * D);
    const Sums down_pull = sums_of(buffer, D, F), gate_up_pull = sums_of(buffer, D, 2 * F);
    for (long start = 0; start < n.tokens; start += STRIP) {
        const long here = n.strip(start), T = padded(here), t_words = T / PER_WORD;
        const Right a_pairs = in_panels(a_place, t_words), d_pairs = in_panels(d_place, t_words);
        const Element* stream = mid + start * D;
        copy_rows(d_y + start * D, here, T, D, dy);
        const Element none[PANEL] = {};  // gate and up of what follows the last token
        product(dy, words, down, words, T, F, [&](long m, long column, auto& c) {
            for (long i = 0; i < height(c); i += 2)
                for (long j = 0; j < width(c); j++) {
                    const long t = m + i, f = column + j * LANES;
                    const Element* kept = gate_up + n.kept(start, f) + t * PANEL;
                    const Gated first(t < here ? kept : none, c[i][j]),
                        second(t + 1 < here ? kept + PANEL : none, c[i + 1][j]);
                    int32_t* row = reinterpret_cast<int32_t*>(d_gate_up + t * 2 * F + 2 * f);
                    store_tile(row, row + 2 * f_words, d_pairs.at(t / PER_WORD, 2 * f), PANEL, first.pulls,
                               second.pulls);
                    store_pairs(a_pairs.at(t / PER_WORD, f), PANEL, first.a, second.a);
                }
        });
        turn(dy, T, D, left, buffer);
        add_to(down_pull, 0, left, t_words, a_pairs, t_words, D, F);
        norm_rows(stream, w.gain, eps, here, T, D, h);
        turn(h, T, D, left, buffer);
        add_to(gate_up_pull, 0, left, t_words, d_pairs, t_words, D, 2 * F);
        product(d_gate_up, 2 * f_words, gate_up_weight, 2 * f_words, T, D,
                [&](long m, long column, auto& c) { store_sums(c, pull + m * D + column, D); });
        residual_backward(stream, dy, w.gain, pull, eps, here, D, pulls.gain, pulls.mid + start * D);
    }
    unpack(down_pull, w.down_of(n), pulls.down);
    unpack_transposed(gate_up_pull, w.gate_up_of(n), pulls.gate_up);
}

}  // namespace

extern "C" {
void forward(const Sizes* n, const float* eps, const Weights* w, const Element* mid, Element* gate_up, Element* y) {
    const Tiles tiles;
    forward_layer(*n, *eps, *w, mid, gate_up, y);
}

// The gradient of the gain is added to what is there.
void backward(const Sizes* n, const float* eps, const Weights* w, const Element* mid, const Element* gate_up,
              const Element* d_y, const Pulls* pulls) {
    const Tiles tiles;
    backward_layer(*n, *eps, *w, mid, gate_up, d_y, *pulls);
}
}
