// What of three.js the point-cloud viewer needs; scripts/bundle_three.sh makes one script of it.
export {
  BufferAttribute, BufferGeometry, LineBasicMaterial, LineSegments, PerspectiveCamera, Points, Scene, ShaderMaterial,
  WebGLRenderer,
} from "three";
export { OrbitControls } from "three/addons/controls/OrbitControls.js";
