"""What the tests of a run use, here too."""

from tests.pipeline.run.conftest import bench, ray_address, videos

__all__ = ["bench", "ray_address", "videos"]
