"""Small folders in the layouts of the published sets of atypical and normal mitotic figures."""

from pathlib import Path

import cv2
import numpy as np

from training.data.sample import Sample

MIDOG25 = "image_id,filename,coordinateX,coordinateY,Tumor,Scanner,Origin,Species,expert1,expert2,expert3,majority"


def write_crop(path: Path, seed: int, side: int = 128) -> Path:
    """Writes a picture of 8 x 8 random colours; one seed, one picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), cv2.resize(colours, (side, side), interpolation=cv2.INTER_NEAREST))
    return path


def write_table(path: Path, columns: str, *rows: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([columns, *rows]) + "\n", encoding="utf-8")


def write_amibr(folder: Path) -> Path:
    """In its repository's layout: two MIDOG slides and one of TUPAC; pictures 1 to 4."""
    write_table(
        folder / "AMi-Br.csv",
        ",slide,dataset,uid,x,y,expert1_label,expert2_label,expert1_atypical,expert2_atypical,expert3_atypical,majority_atypical",
        "0,002.tiff,MIDOG21,6,4422,216,NMF metaphase,NMF metaphase,False,False,False,False",
        "1,002.tiff,MIDOG21,7,1867,1583,AMF other,NMF metaphase,True,False,True,True",
        "2,101.tiff,MIDOG21,6000,1,1,NMF metaphase,NMF metaphase,False,False,False,False",
        "3,04_stitched1.tif,TUPAC16,6,1,1,AMF other,AMF other,True,True,True,True",
    )
    for seed, name in enumerate(["MIDOG21_6", "MIDOG21_7", "MIDOG21_6000", "TUPAC16_6"], start=1):
        write_crop(folder / "patches" / f"{name}.png", seed)
    return folder


def write_midog25(folder: Path) -> Path:
    """Slide 002 is in AMi-Br too; pictures 11 to 15, the file of the last one without a row."""
    write_table(
        folder / "train.csv",
        MIDOG25,
        "1.png,201.tiff,1,1,canine lung cancer,3D Histech,VMU Vienna,Canine,NMF,AMF,NMF,NMF",
        "2.png,201.tiff,1,1,canine lung cancer,3D Histech,VMU Vienna,Canine,AMF,AMF,,AMF",
        "3.png,002.tiff,1,1,human breast cancer,Hamamatsu XR,UMC Utrecht,Human,AMF,AMF,,AMF",
        "4.png,055.tiff,1,1,human breast cancer,Hamamatsu S360,UMC Utrecht,Human,NMF,NMF,,NMF",
    )
    for seed in range(11, 16):
        write_crop(folder / "crops" / f"{seed - 10}.png", seed)
    return folder


def write_omg_octo(folder: Path) -> Path:
    """A slide called as one of MIDOG's is another; pictures 21 and 22."""
    write_table(folder / "octo.csv", "image_id,filename,majority", "c4b9_x1_y2.png,c4b9,AMF", "002_x3_y4.png,002,NMF")
    for seed, name in enumerate(["c4b9_x1_y2", "002_x3_y4"], start=21):
        write_crop(folder / f"{name}.png", seed)
    return folder


def write_atnorm_br(folder: Path) -> Path:
    """Pictures 31 to 33."""
    for seed, name in enumerate(["Atypical/7", "Normal/1", "Normal/9"], start=31):
        write_crop(folder / f"{name}.png", seed)
    return folder


def write_atnorm_md(folder: Path) -> Path:
    """Pictures 41 and 42, and picture 12 of MIDOG25 once more."""
    write_table(
        folder / "AtNorM-MD_expert_votes.csv",
        "Filename,Expert_1,Expert_2,Expert_3,Expert_4,Expert_5,Majority",
        "188.png,Atypical,Atypical,Normal,Atypical,Normal,Atypical",
        "189.png,Normal,Normal,Normal,Normal,Normal,Normal",
        "190.png,Atypical,Atypical,Atypical,Atypical,Atypical,Atypical",
    )
    for seed, name in ((41, "Atypical/188"), (42, "Normal/189"), (12, "Atypical/190")):
        write_crop(folder / f"{name}.png", seed)
    return folder


def write_benchmark_repository(folder: Path) -> Path:
    """AMi-Br's benchmark as its repository is cloned: three sets, AMi-Br in two splits, only one with a table."""
    write_table(
        folder / "AMi-Br" / "amibr_train_split.csv",
        "slide,dataset,uid,expert1_label,expert2_label,expert1_atypical,expert2_atypical,expert3_atypical,majority_atypical,"
        "dataset_uid,final_label",
        "002.tiff,MIDOG21,6,NMF metaphase,NMF metaphase,False,False,False,False,MIDOG21_6.png,Normal",
        "002.tiff,MIDOG21,7,AMF other,NMF metaphase,True,False,True,True,MIDOG21_7.png,Atypical",
        "04_stitched1.tif,TUPAC16,6,AMF other,AMF other,True,True,True,True,TUPAC16_6.png,Atypical",
    )
    names = (
        "Train/Normal/MIDOG21_6",
        "Train/Atypical/MIDOG21_7",
        "Test/Normal/MIDOG21_6000",
        "Train/Atypical/TUPAC16_6",
    )
    for seed, name in enumerate(names, start=1):
        write_crop(folder / "AMi-Br" / f"{name}.png", seed)
    write_atnorm_br(folder / "AtNorM-Br")
    write_atnorm_md(folder / "AtNorM-MD")
    write_table(folder / "End-to-End_DL_Baselines" / "results.csv", "fold,balanced_accuracy", "1,0.8")
    return folder


def facts(samples: list[Sample]) -> list[tuple[str, int, str, str, float]]:
    return [(s.path.name, s.label, s.domain, s.group, round(s.agreement, 4)) for s in samples]
