"""Evaluation: metrics, scoring, replay of footage, parity with the published code, reports."""
