"""Behind `dllm-bench speed`; read clocks, research, counting, ceilings, results, work, races, steps, run, render."""
