// h = silu(gate) · up of rows (gate, up) that lie side by side, and its gradient; F features, a multiple of LANES.

#include "vectors.h"

namespace {

// 1 / (1 + e^-x), from a power of at most 2^126.
inline Floats sigmoid(Floats x) {
    const Floats power = x * -LOG2_E;
    return 1.0f / (1.0f + power_of_two(power < 126.0f ? power : Floats{} + 126.0f));
}

}  // namespace

extern "C" {
void forward(long rows, long F, const Element* gate_up, Element* h) {
    for (long t = 0; t < rows; t++)
        for (long f = 0; f < F; f += LANES) {
            const Floats gate = load_row(gate_up + t * 2 * F + f), up = load_row(gate_up + t * 2 * F + F + f);
            store_row(h + t * F + f, gate * sigmoid(gate) * up);
        }
}

void backward(long rows, long F, const Element* gate_up, const Element* dh, Element* d_gate_up) {
    for (long t = 0; t < rows; t++)
        for (long f = 0; f < F; f += LANES) {
            const long at = t * 2 * F + f;
            const Floats gate = load_row(gate_up + at), up = load_row(gate_up + at + F),
                         pull = load_row(dh + t * F + f);
            const Floats s = sigmoid(gate);
            store_row(d_gate_up + at, pull * up * s * (1.0f + gate * (1.0f - s)));
            store_row(d_gate_up + at + F, pull * gate * s);
        }
}
}
