"""What an administrator does with an exported job, and a client whose certificate another authority has signed."""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from pathlib import Path

from small_bundle import SITES

from msdino_monai.federated.poc import SERVER, Processes, free_port, joined, provision, session


def main(job: Path, data: Path, folder: Path) -> None:
    port = free_port()
    kits = provision(folder / "real", SITES, port)
    strangers = provision(folder / "forged", ["stranger", *SITES], port)
    shutil.copytree(strangers / "stranger", kits / "stranger")
    sites = {name: data / name for name in SITES}
    processes = Processes(kits, folder / "logs", {"MSDINO_SITES_DIR": str(data)})
    assert all(path.is_dir() for path in sites.values())
    try:
        processes.start_server()
        for name in SITES:
            processes.start_site(name)
        with session(processes, len(SITES)) as opened:
            processes.start_site("stranger")
            identity = opened.submit_job(str(job))
            while not str(opened.get_job_meta(identity)["status"]).startswith("FINISHED"):
                time.sleep(0.5)
            meta = opened.get_job_meta(identity)
            if meta["status"] == "FINISHED:FAILED_TO_RUN":
                sys.exit(f"not run: {meta.get('job_deploy_detail')}")
            result = Path(opened.download_job_result(identity, str(folder / "download")))
            found = next(path.with_name("federated.json") for path in result.rglob("traffic.json"))
            log = processes.log("stranger").read_text()
            refusals = re.findall(r"[^\n]*(?:certificate|SSL)[^\n]*", log, re.IGNORECASE)
            answer = {
                "status": meta["status"],
                "joined": joined(opened),
                "stranger": refusals[0] if refusals else "",
                "report": json.loads(found.read_text()),
                "server": SERVER,
            }
    finally:
        processes.stop()
    print(json.dumps(answer))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
