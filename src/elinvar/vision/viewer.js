// A point cloud in a canvas: drag turns, right drag or shift-drag moves, wheel or pinch zooms, arrow keys turn.
// three.js draws and steers (data/three.min.js). `start(root)` reads its data from attributes of the root element.
(function () {
  "use strict";
  const three = window.elinvarThree;
  // Half the vertical angle of view, radians; narrow windows get more, to be as wide in the scene as one of 3:2 is.
  const HALF_VIEW = 0.4;
  // Colours go to the screen as they come, which is why the shader does not convert to sRGB.
  const POINTS = `attribute vec3 shade; attribute float trust; uniform float radius, least; varying vec3 colour;
    void main() {
      colour = shade;
      gl_Position = projectionMatrix * modelViewMatrix * vec4(position, 1.0);
      gl_PointSize = clamp(radius / gl_Position.w, 1.0, 24.0);
      if (trust < least) gl_Position = vec4(2.0, 2.0, 2.0, 1.0);
    }`;
  const SHADE = "varying vec3 colour; void main() { gl_FragColor = vec4(colour, 1.0); }";

  function bytes(root, name) {
    const raw = atob(root.querySelector(name).textContent), out = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
    return out;
  }

  function points(info, packed) {
    const n = info.count, geometry = new three.BufferGeometry();
    const set = (name, data, size) => geometry.setAttribute(name, new three.BufferAttribute(data, size, true));
    set("position", new Uint16Array(packed.buffer, 0, 3 * n), 3);
    set("shade", packed.subarray(6 * n, 9 * n), 3);
    set("trust", packed.subarray(9 * n, 10 * n), 1);
    const uniforms = { radius: { value: 1 }, least: { value: 0 } };
    const made = new three.Points(
      geometry, new three.ShaderMaterial({ vertexShader: POINTS, fragmentShader: SHADE, uniforms }));
    made.position.fromArray(info.lower);
    made.scale.fromArray(info.size);
    made.frustumCulled = false;
    return made;
  }

  function wires(segments) {
    const geometry = new three.BufferGeometry();
    geometry.setAttribute("position", new three.BufferAttribute(segments, 3));
    const made = new three.LineSegments(geometry, new three.LineBasicMaterial({ color: 0xf08c26 }));
    made.frustumCulled = false;
    return made;
  }

  function steer(camera, canvas, info, draw) {
    camera.up.set(0, -1, 0); // the scene has x right, y down, z away
    // Ten percent for each click of a wheel, but fingers keep hold of what they pinch.
    canvas.addEventListener("wheel", () => { controls.zoomSpeed = 2; }, { capture: true, passive: true });
    canvas.addEventListener("pointerdown", () => { controls.zoomSpeed = 1; }, { capture: true });
    const controls = new three.OrbitControls(camera, canvas);
    controls.target.fromArray(info.target);
    camera.position.set(info.target[0], info.target[1], info.target[2] - info.distance);
    controls.minPolarAngle = Math.PI / 2 - 1.55;
    controls.maxPolarAngle = Math.PI / 2 + 1.55;
    controls.rotateSpeed = 0.6;
    controls.cursorStyle = "grab";
    controls.update();
    controls.saveState();
    // Its "change" is silent about steps below a thousandth of a unit, and a scene's unit is anything.
    const update = controls.update.bind(controls);
    controls.update = (seconds) => { const changed = update(seconds); draw(); return changed; };
    const keys = {
      ArrowLeft: () => controls.rotateLeft(-0.1), ArrowRight: () => controls.rotateLeft(0.1),
      ArrowUp: () => controls.rotateUp(-0.1), ArrowDown: () => controls.rotateUp(0.1),
      "+": () => controls.dollyIn(0.9), "-": () => controls.dollyOut(0.9),
    };
    canvas.addEventListener("keydown", (e) => {
      if (!(e.key in keys) || e.ctrlKey || e.metaKey || e.altKey) return;
      e.preventDefault();
      keys[e.key]();
    });
    return controls;
  }

  function start(root) {
    const info = JSON.parse(root.getAttribute("data-info")), canvas = root.querySelector("canvas");
    const context = canvas.getContext("webgl2", { antialias: true, alpha: true, preserveDrawingBuffer: true });
    if (!context) {
      root.querySelector(".cloud-note").textContent =
        "This browser has no WebGL 2; open the PLY file in a point-cloud program.";
      return;
    }
    // What no point covers stays clear: the page's style colours it, light or dark.
    const renderer = new three.WebGLRenderer({ canvas, context });
    renderer.setClearColor(0x000000, 0);
    const scene = new three.Scene(), camera = new three.PerspectiveCamera();
    const cloud = points(info, bytes(root, ".cloud-points"));
    const segments = new Float32Array(bytes(root, ".cloud-lines").buffer), uniforms = cloud.material.uniforms;
    scene.add(cloud);
    if (segments.length) scene.add(wires(segments));
    let point = 2, pending = false;

    function paint() {
      pending = false;
      const ratio = window.devicePixelRatio || 1;
      const width = Math.max(1, canvas.clientWidth), height = Math.max(1, canvas.clientHeight);
      renderer.setPixelRatio(ratio);
      renderer.setSize(width, height, false);
      const distance = controls.getDistance();
      camera.aspect = width / height;
      camera.fov = 360 / Math.PI * Math.atan(Math.tan(HALF_VIEW) * Math.max(1, 1.5 / camera.aspect));
      camera.near = distance * 0.01;
      camera.far = distance * 4 + info.reach * 4;
      camera.updateProjectionMatrix();
      uniforms.radius.value = point * ratio * info.distance;
      renderer.render(scene, camera);
      root.setAttribute("data-drawn", String(info.count));
    }

    function draw() { if (!pending) { pending = true; window.requestAnimationFrame(paint); } }

    const controls = steer(camera, canvas, info, draw);
    const on = (name, what, act) => root.querySelector(name).addEventListener(what, act);
    on(".cloud-size", "input", (e) => { point = Number(e.target.value); draw(); });
    on(".cloud-least", "input", (e) => { uniforms.least.value = Number(e.target.value); draw(); });
    on(".cloud-reset", "click", () => controls.reset());
    canvas.addEventListener("webglcontextrestored", draw);
    new ResizeObserver(draw).observe(canvas); // draws for the first time as well, as soon as there is room
    window.addEventListener("resize", draw); // its pixels' ratio may change and its size not
  }

  document.querySelectorAll(".cloud:not([data-started])").forEach((root) => {
    root.setAttribute("data-started", "1");
    start(root);
  });
})();
