"""The small helper library of the busi-notebooks lessons. Importing it loads no deep-learning framework.

For teaching and research, not for diagnosis.
"""

__version__ = "1.0.0"
