"""The method on diffusers pipelines, and as a technique of eval-unlearn."""
