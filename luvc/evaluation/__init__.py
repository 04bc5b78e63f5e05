"""Is it lossless? The answers of compressed runs against those of the uncompressed one, on the same questions.

`questions` reads and scores, `settings` names what is compared, `study` asks, `statistics` counts (pure),
`summary` and `report` say what came out.
"""
