"""What a teacher, a batch job or a maintainer runs: the `busi` command and what stands behind it."""
