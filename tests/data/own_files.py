"""Small folders and files of images, as users have them."""

from __future__ import annotations

import io
import pathlib

import numpy as np
from PIL import Image


def write_folder(
  folder: pathlib.Path, num_images: int, *, seed: int = 0, size: int = 8
) -> None:
  """Writes grey PNG files of noise into the classes 'a' and 'b'."""
  rng = np.random.default_rng(seed)
  for name in ('a', 'b'):
    (folder / name).mkdir(parents=True, exist_ok=True)
    for index in range(num_images):
      pixels = rng.integers(0, 256, (size, size), np.uint8)
      Image.fromarray(pixels).save(folder / name / f'{index}.png')


def dicom(
  value: int, person: str | None, frames: int = 1, name: str = 'Name'
) -> bytes:
  """A grey file of 8x8 pixels of 8 bits, all of one value."""
  import pydicom
  import pydicom.dataset
  import pydicom.uid

  meta = pydicom.dataset.FileMetaDataset()
  meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
  file = pydicom.dataset.Dataset()
  file.file_meta = meta
  file.SOPClassUID = '1.2.840.10008.5.1.4.1.1.7'
  file.SOPInstanceUID = '1.2.3'
  file.PatientName = name
  if person is not None:
    file.PatientID = person
  file.Rows = file.Columns = 8
  file.SamplesPerPixel, file.PhotometricInterpretation = 1, 'MONOCHROME2'
  file.BitsAllocated = file.BitsStored = 8
  file.HighBit, file.PixelRepresentation = 7, 0
  if frames > 1:
    file.NumberOfFrames = frames
  file.PixelData = np.full((frames, 8, 8), value, np.uint8).tobytes()
  data = io.BytesIO()
  pydicom.dcmwrite(data, file, enforce_file_format=True)
  return data.getvalue()
