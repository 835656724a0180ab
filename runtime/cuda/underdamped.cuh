// What moves chains of runtime/samplers/underdamped.py. `Loop::step_size` is half of the time step here, and `Loop::sigma` the
// standard deviation of what the noise adds to a velocity.

// A step up to its evaluation: a kick by half a step, a flight of half a step, friction and noise, and the flight's other half.
extern "C" __global__ void glide(const Loop *loop, int ahead)
{
    const int step = loop->step + ahead;
    if (step >= loop->steps)
        return;
    const unsigned numbers = loop->rows * loop->size;
    const int at = scheduled(loop, step);
    const float half = loop->step_size[at], kept = loop->kept[at], sigma = loop->sigma[at];
    for (unsigned i = blockIdx.x * THREADS + threadIdx.x; i < numbers; i += gridDim.x * THREADS) {
        const unsigned row = i / loop->size;
        float velocity = loop->velocity[i] - clipped(loop, gradient(loop, i, row), row) * half;
        float value = velocity * half + loop->position[i];
        bounce(value, velocity, loop->bounds, loop->low, loop->high);
        velocity = velocity * kept + loop->noise[i] * (loop->free ? loop->free[i] : 1.0f) * sigma;
        value += velocity * half;
        bounce(value, velocity, loop->bounds, loop->low, loop->high);
        loop->position[i] = value;
        loop->velocity[i] = velocity;
    }
}

// The rest of it: a kick by half a step, at the new place.
extern "C" __global__ void kick(const Loop *loop, int ahead)
{
    const int step = loop->step + ahead;
    if (step >= loop->steps)
        return;
    const unsigned numbers = loop->rows * loop->size;
    const float half = loop->step_size[scheduled(loop, step)];
    for (unsigned i = blockIdx.x * THREADS + threadIdx.x; i < numbers; i += gridDim.x * THREADS) {
        const unsigned row = i / loop->size;
        loop->velocity[i] -= clipped(loop, gradient(loop, i, row), row) * half;
    }
}
