"""A benchmark with exact answers: photo cut-outs over photographs, as real video files with questions."""
