"""nbval runs the lessons only: exercises as released must fail, and solutions have tests of their own."""

collect_ignore = ["exercises", "solutions"]
