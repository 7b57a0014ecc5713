;; Exports a handler of the right name that takes something else.
(component
  (core module $code
    (func (export "handle") (param i32)))
  (core instance $main (instantiate $code))
  (func $handle (param "request" u32)
    (canon lift (core func $main "handle")))
  (instance $handler (export "handle" (func $handle)))
  (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))
