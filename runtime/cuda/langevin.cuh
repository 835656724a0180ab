// What moves chains of runtime/samplers/langevin.py.

enum Parts { WITH_NOISE = 1, WITH_DRIFT = 2 };

// Moves the positions: by the noise, by the gradient, or by both at once.
extern "C" __global__ void move(const Loop *loop, int ahead, int parts)
{
    const int step = loop->step + ahead;
    if (step >= loop->steps || parts == 0)
        return;
    const unsigned numbers = loop->rows * loop->size;
    const int at = scheduled(loop, step);
    const float sigma = loop->sigma[at], step_size = loop->step_size[at];
    for (unsigned i = blockIdx.x * THREADS + threadIdx.x; i < numbers; i += gridDim.x * THREADS) {
        float value = loop->position[i];
        if (parts & WITH_NOISE)
            value = loop->noise[i] * (loop->free ? loop->free[i] : 1.0f) * sigma + value;
        if (parts & WITH_DRIFT) {
            const unsigned row = i / loop->size;
            value -= clipped(loop, gradient(loop, i, row), row) * step_size;
        }
        loop->position[i] = confined(value, loop->bounds, loop->low, loop->high);
    }
}
