// A point cloud in a canvas: drag turns, right drag or shift-drag moves, wheel or pinch zooms, arrow keys turn.
// Plain WebGL 1, no library, no network. `start(root)` reads its data from attributes of the root element.
(function () {
  "use strict";
  var POINTS = "attribute vec3 p; attribute vec3 c; attribute float w; uniform mat4 m; uniform vec3 lo, size;" +
    "uniform float radius, least; varying vec3 colour;" +
    "void main() { colour = c; vec4 q = m * vec4(lo + p * size, 1.0); gl_Position = w < least ? vec4(2.0) : q;" +
    "gl_PointSize = clamp(radius / q.w, 1.0, 24.0); }";
  var LINES = "attribute vec3 p; uniform mat4 m; void main() { gl_Position = m * vec4(p, 1.0); }";
  var SHADE = "precision mediump float; varying vec3 colour; void main() { gl_FragColor = vec4(colour, 1.0); }";
  var ORANGE = "precision mediump float; void main() { gl_FragColor = vec4(0.94, 0.55, 0.15, 1.0); }";

  function bytes(text) {
    var raw = atob(text), out = new Uint8Array(raw.length);
    for (var i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
    return out;
  }

  function program(gl, vertex, fragment) {
    var made = gl.createProgram();
    [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]].forEach(function (part) {
      var shader = gl.createShader(part[0]);
      gl.shaderSource(shader, part[1]);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
      gl.attachShader(made, shader);
    });
    gl.linkProgram(made);
    return made;
  }

  function buffer(gl, data) {
    var made = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, made);
    gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
    return made;
  }

  function times(a, b) { // column-major 4 x 4
    var out = new Float32Array(16);
    for (var c = 0; c < 4; c++) for (var r = 0; r < 4; r++) {
      var sum = 0;
      for (var k = 0; k < 4; k++) sum += a[4 * k + r] * b[4 * c + k];
      out[4 * c + r] = sum;
    }
    return out;
  }

  function start(root) {
    var info = JSON.parse(root.getAttribute("data-info"));
    var canvas = root.querySelector("canvas"), note = root.querySelector(".cloud-note");
    var gl = canvas.getContext("webgl", { antialias: true, preserveDrawingBuffer: true });
    if (!gl) { note.textContent = "This browser has no WebGL; open the PLY file in a point-cloud program."; return; }
    var packed = bytes(root.querySelector(".cloud-points").textContent);
    var segments = new Float32Array(bytes(root.querySelector(".cloud-lines").textContent).buffer);
    var n = info.count;
    var position = buffer(gl, new Uint16Array(packed.buffer.slice(0, 6 * n)));
    var colour = buffer(gl, packed.subarray(6 * n, 9 * n)), trust = buffer(gl, packed.subarray(9 * n, 10 * n));
    var lines = buffer(gl, segments);
    var cloud = program(gl, POINTS, SHADE), wires = program(gl, LINES, ORANGE);
    var view = {}, pending = false;

    function reset() {
      view = { yaw: 0.0, pitch: 0.0, distance: info.distance, target: info.target.slice(), point: view.point || 2,
        least: view.least || 0 };
      draw();
    }

    function axes() {
      var cy = Math.cos(view.yaw), sy = Math.sin(view.yaw), cp = Math.cos(view.pitch), sp = Math.sin(view.pitch);
      // Rows of the rotation from scene (x right, y down, z away) to the viewer (x right, y up, z near).
      return [[cy, 0, -sy], [-sp * sy, -cp, -sp * cy], [-cp * sy, sp, -cp * cy]];
    }

    function matrix() {
      var r = axes(), t = view.target, e = [0, 1, 2].map(function (k) {
        return -(r[k][0] * t[0] + r[k][1] * t[1] + r[k][2] * t[2]);
      });
      e[2] -= view.distance;
      var look = new Float32Array([r[0][0], r[1][0], r[2][0], 0, r[0][1], r[1][1], r[2][1], 0, r[0][2], r[1][2], r[2][2],
        0, e[0], e[1], e[2], 1]);
      var f = 1 / Math.tan(0.4), near = view.distance * 0.01, far = view.distance * 4 + info.reach * 4;
      var lens = new Float32Array([f * canvas.height / canvas.width, 0, 0, 0, 0, f, 0, 0, 0, 0, (far + near) / (near - far),
        -1, 0, 0, 2 * far * near / (near - far), 0]);
      return times(lens, look);
    }

    function attribute(which, name, data, count, type, scaled) {
      var at = gl.getAttribLocation(which, name);
      gl.bindBuffer(gl.ARRAY_BUFFER, data);
      gl.enableVertexAttribArray(at);
      gl.vertexAttribPointer(at, count, type, scaled, 0, 0);
    }

    function paint() {
      pending = false;
      var ratio = window.devicePixelRatio || 1;
      canvas.width = Math.max(1, Math.round(canvas.clientWidth * ratio));
      canvas.height = Math.max(1, Math.round(canvas.clientHeight * ratio));
      gl.viewport(0, 0, canvas.width, canvas.height);
      gl.clearColor(0.09, 0.1, 0.12, 1);
      gl.enable(gl.DEPTH_TEST);
      gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
      var m = matrix();
      gl.useProgram(cloud);
      attribute(cloud, "p", position, 3, gl.UNSIGNED_SHORT, true);
      attribute(cloud, "c", colour, 3, gl.UNSIGNED_BYTE, true);
      attribute(cloud, "w", trust, 1, gl.UNSIGNED_BYTE, true);
      gl.uniformMatrix4fv(gl.getUniformLocation(cloud, "m"), false, m);
      gl.uniform3fv(gl.getUniformLocation(cloud, "lo"), info.lower);
      gl.uniform3fv(gl.getUniformLocation(cloud, "size"), info.size);
      gl.uniform1f(gl.getUniformLocation(cloud, "radius"), view.point * ratio * info.distance);
      gl.uniform1f(gl.getUniformLocation(cloud, "least"), view.least);
      gl.drawArrays(gl.POINTS, 0, n);
      if (segments.length) {
        gl.useProgram(wires);
        attribute(wires, "p", lines, 3, gl.FLOAT, false);
        gl.uniformMatrix4fv(gl.getUniformLocation(wires, "m"), false, m);
        gl.drawArrays(gl.LINES, 0, segments.length / 3);
      }
      root.setAttribute("data-drawn", String(n));
    }

    function draw() { if (!pending) { pending = true; window.requestAnimationFrame(paint); } }

    function turn(dx, dy) {
      view.yaw -= dx;
      view.pitch = Math.max(-1.55, Math.min(1.55, view.pitch + dy));
      draw();
    }

    function move(dx, dy) {
      var r = axes(), s = 0.85 * view.distance / canvas.clientHeight;
      for (var k = 0; k < 3; k++) view.target[k] += s * (-dx * r[0][k] + dy * r[1][k]);
      draw();
    }

    function zoom(factor) { view.distance = Math.max(1e-6, view.distance * factor); draw(); }

    var held = {}, span = 0;
    canvas.addEventListener("pointerdown", function (e) {
      canvas.setPointerCapture(e.pointerId);
      held[e.pointerId] = [e.clientX, e.clientY];
      span = 0;
    });
    canvas.addEventListener("pointermove", function (e) {
      var last = held[e.pointerId];
      if (!last) return;
      var dx = e.clientX - last[0], dy = e.clientY - last[1], ids = Object.keys(held);
      held[e.pointerId] = [e.clientX, e.clientY];
      if (ids.length > 1) {
        var a = held[ids[0]], b = held[ids[1]], now = Math.hypot(a[0] - b[0], a[1] - b[1]);
        if (span) zoom(span / Math.max(1, now));
        span = now;
        move(dx / 2, dy / 2);
      } else if (e.buttons & 2 || e.shiftKey) move(dx, dy);
      else turn(-dx * 0.006, dy * 0.006);
    });
    ["pointerup", "pointercancel"].forEach(function (name) {
      canvas.addEventListener(name, function (e) { delete held[e.pointerId]; span = 0; });
    });
    canvas.addEventListener("contextmenu", function (e) { e.preventDefault(); });
    canvas.addEventListener("wheel", function (e) { e.preventDefault(); zoom(Math.exp(e.deltaY * 0.001)); }, { passive: false });
    canvas.addEventListener("keydown", function (e) {
      var step = { ArrowLeft: [0.1, 0], ArrowRight: [-0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[e.key];
      if (step) { e.preventDefault(); turn(step[0], step[1]); }
      if (e.key === "+") zoom(0.9);
      if (e.key === "-") zoom(1.1);
    });
    root.querySelector(".cloud-size").addEventListener("input", function (e) { view.point = Number(e.target.value); draw(); });
    root.querySelector(".cloud-least").addEventListener("input", function (e) { view.least = Number(e.target.value); draw(); });
    root.querySelector(".cloud-reset").addEventListener("click", reset);
    window.addEventListener("resize", draw);
    reset();
  }

  Array.prototype.forEach.call(document.querySelectorAll(".cloud:not([data-started])"), function (root) {
    root.setAttribute("data-started", "1");
    start(root);
  });
})();
