"""SmolLM2-135M trained and evaluated through `tea train` and `tea eval`: what best-of-N gains on a real model."""
