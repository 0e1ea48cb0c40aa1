"""Every checkpoint of a run, and any other models, on the tasks named.

    export ANTHROPIC_API_KEY=…
    python -m evals.sweep --config=configs/evals/sweep.py --config.run=gs://bucket/msm-20 \\
        --config.tasks="('agentic_misalignment:split=dev,epochs=10', 'value_preference')" \\
        --config.judge=anthropic/claude-sonnet-4-6 --config.out=runs/sweep --preview    # what it would do; asks nothing

Without --preview it does it. Killed, the same command goes on. Runs, models and steps may be added to a sweep later;
other tasks, arguments or another judge are another sweep.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "run": "",  # a run's directory, here or gs://, whose checkpoints are evaluated
            "runs": (),  # several: 'label@seed=directory'; those of one label are seeds of one arm
            "models": (),  # any models of Inspect: 'label@seed=provider/name', as anthropic/…, vllm/…, hf/…, msm/DIR
            "model_args": "",  # key=value,key=value for the providers of runs and models
            "every": 1,  # of the runs' checkpoints, those whose step it divides, and the last one
            "steps": (),  # these steps alone; (): as `every` says
            "tasks": (),  # 'name:key=value,key=value'; epochs and limit may be given to any
            "judge": "",  # a model of Inspect, in the role grader; tasks that need none do without
            "out": "runs/sweep",  # directory, here or gs://: logs, results, curves
            # Local directory of the judge's answers and compiled programs; empty: OUT/cache, or Inspect's own and none
            # where OUT is gs://.
            "cache": "",
            "max_connections": 0,  # requests to a model at once; 0: as its provider says
            "max_tokens": 0,  # of an answer at most, where a task allows more: for a quick look; 0: as tasks say
            "max_errors": 0.0,  # share of samples that may fail; more, and the evaluation is not finished
            "retries": 1,  # of an evaluation in which samples failed; those alone are run again
            "follow": False,  # waits for the checkpoints of runs that are still going
            "poll_seconds": 30.0,  # between looks at them
            "timeout_seconds": 86_400.0,  # without a new checkpoint, after which it gives up waiting
        }
    )
