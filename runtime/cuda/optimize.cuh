// What moves chains of runtime/samplers/optimize.py.

// Adds the gradient to what is kept of the last move, and moves by both.
extern "C" __global__ void descend(const Loop *loop, int ahead)
{
    const int step = loop->step + ahead;
    if (step >= loop->steps)
        return;
    const unsigned numbers = loop->rows * loop->size;
    const int at = scheduled(loop, step);
    const float step_size = loop->step_size[at], kept = loop->kept[at];
    for (unsigned i = blockIdx.x * THREADS + threadIdx.x; i < numbers; i += gridDim.x * THREADS) {
        const unsigned row = i / loop->size;
        float velocity = loop->velocity[i] * kept - clipped(loop, gradient(loop, i, row), row) * step_size;
        float value = loop->position[i] + velocity;
        bounce(value, velocity, loop->bounds, loop->low, loop->high);
        loop->position[i] = value;
        loop->velocity[i] = velocity;
    }
}
