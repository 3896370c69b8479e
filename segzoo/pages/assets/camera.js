// A picture from the camera. The picture stays in the page; the camera is off once the box closes.

const at = (id) => document.getElementById(id);

/** Whether a page may ask for a camera: only one that came over https, or from this machine. */
export function hasCamera() {
  return Boolean(navigator.mediaDevices?.getUserMedia);
}

/**
 * Let a person take a picture: the file, or null where they did not.
 *
 * @throws {Error} with a sentence, where there is no camera or it may not be used
 */
export async function takePicture(number) {
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({
      video: { facingMode: "environment", width: { ideal: 1280 }, height: { ideal: 960 } },
    });
  } catch (error) {
    throw new Error(reason(error));
  }
  const dialog = at("camera-dialog");
  const view = at("camera-view");
  view.srcObject = stream;
  dialog.showModal();
  try {
    return await new Promise((resolve) => {
      at("camera-close").onclick = () => dialog.close();
      at("camera-take").onclick = async () => {
        const file = view.videoWidth ? await frame(view, number) : null;
        if (file) {
          resolve(file);
          dialog.close();
        }
      };
      dialog.onclose = () => resolve(null); // the Escape key closes it as well
    });
  } finally {
    for (const track of stream.getTracks()) track.stop();
    view.srcObject = null;
  }
}

async function frame(view, number) {
  const canvas = new OffscreenCanvas(view.videoWidth, view.videoHeight);
  canvas.getContext("2d").drawImage(view, 0, 0);
  return new File([await canvas.convertToBlob({ type: "image/png" })], `camera-${number}.png`, { type: "image/png" });
}

function reason(error) {
  if (error.name === "NotAllowedError") return "The camera may not be used: allow it in the browser's settings for this page.";
  if (error.name === "NotFoundError") return "No camera was found on this device.";
  return "The camera cannot be used; another program may have it.";
}
