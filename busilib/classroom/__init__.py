"""For teachers: exercises made from their solutions, and grading. Needs ``pip install "busi-notebooks[teacher]"``."""
