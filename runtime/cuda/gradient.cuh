// The gradient that a step goes by, from the engine's answer.

// dE/dx at number `at`, which is one of `row`: without its scale, and zero where the number may not move.
__device__ inline float gradient(const Loop *loop, unsigned at, unsigned row)
{
    return loop->grad[at] / loop->answer_scale[row] * (loop->free ? loop->free[at] : 1.0f);
}

// A gradient of `row` as far as clipping lets it through.
__device__ inline float clipped(const Loop *loop, float grad, unsigned row)
{
    const float limit = static_cast<float>(loop->limit);
    if (loop->clip == CLIP_VALUE)
        return limited(grad, -limit, limit);
    return loop->clip == CLIP_NORM ? grad * loop->factor[row] : grad;
}
