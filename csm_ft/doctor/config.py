"""Options of `python -m csm_ft.doctor`."""

from csm_ft.config.base import Options, option


class DoctorConfig(Options):
    """What the machine is looked at for."""

    family: str = option(
        "auto", "Model family; auto = that of the token file, or csm.", group="what for"
    )
    data: str = option(
        "tokens.hdf5", "Token file to be trained on, if it is there.", group="what for", path=True
    )
    output_dir: str = option("exp", "Folder for runs.", group="what for", path=True)
    device: str = option("auto", "cpu, cuda or cuda:N; auto = cuda if available.", group="what for")
    hub: bool = option(True, "Ask the hub for access; false = look at the disk only.", group="hub")
