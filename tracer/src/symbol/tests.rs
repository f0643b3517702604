//! What is here needs compilers; without one a test says so and passes.
