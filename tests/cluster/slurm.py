"""A Slurm of several nodes on this machine, for tests: its real daemons on `hosts`."""

import contextlib
import functools
import shutil
from collections.abc import Iterator
from pathlib import Path

import hosts

_CONFIGURATION = """
ClusterName=tests
SlurmctldHost=host0
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
ReturnToService=1
SlurmdTimeout=5
InactiveLimit=0
KillWait=5
MinJobAge=300
JobRequeue=1
SchedulerParameters=batch_sched_delay=0,sched_interval=1,requeue_setup_env_fail
NodeName=host[1-{nodes}] CPUs=4 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=20
PartitionName=high Nodes=ALL MaxTime=INFINITE PriorityTier=2 PreemptMode=off
"""


@functools.cache
def missing() -> str:
    """Why there can be no Slurm here; empty if there can."""
    if not shutil.which("slurmctld") or not shutil.which("slurmd"):
        return "needs slurmctld and slurmd (Debian: slurm-wlm)"
    return hosts.missing()


class Slurm:
    """A controller on host 0, which also submits, and a node on each of the others."""

    def __init__(self, machines: list[hosts.Host], folder: Path):
        self.folder = folder
        self._submitter, *nodes = machines
        self.nodes = {machine.name: machine for machine in nodes}
        (folder / "state").mkdir(parents=True)
        text = _CONFIGURATION.format(folder=folder, nodes=len(nodes))
        (folder / "slurm.conf").write_text(text)
        # Of no use to the plug-ins above, but what it would find by itself it mounts.
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        self._environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self._submitter.start(
            ["slurmctld", "-D", "-c"],
            folder / "slurmctld.log",
            environment=self._environment,
        )
        for name in self.nodes:
            self.boot(name)
        for name in self.nodes:
            hosts.wait(
                lambda name=name: self.node(name).startswith("idle"),
                f"{name} is idle",
                30,
                log=folder / "slurmctld.log",
            )

    def boot(self, name: str) -> None:
        """Starts the daemon of a node."""
        self.nodes[name].start(
            ["slurmd", "-D", "-N", name],
            self.folder / f"slurmd-{name}.log",
            environment=self._environment,
        )

    def call(self, *words: object, cwd: Path | None = None, **environment) -> str:
        """What a command of Slurm's prints on host 0."""
        return self._submitter.run(
            *words, cwd=cwd, environment=self._environment | environment
        )

    def node(self, name: str) -> str:
        """The state of a node."""
        with contextlib.suppress(AssertionError):
            return self.call("sinfo", "-h", "-n", name, "-o", "%T").split("\n")[0]
        return ""

    def job(self, number: str) -> dict[str, str]:
        """What Slurm knows of a job, by name."""
        shown = self.call("scontrol", "show", "job", number)
        return dict(word.split("=", 1) for word in shown.split() if "=" in word)


@contextlib.contextmanager
def cluster(nodes: int, folder: Path) -> Iterator[Slurm]:
    """A Slurm that runs, with so many nodes."""
    with hosts.network(nodes + 1) as machines:
        yield Slurm(machines, folder)
