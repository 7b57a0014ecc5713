;; Is refused memory, and can do without; then recurses for ever.
(component
  (import "wasi:http/types@0.2.0" (instance $types
    (export "incoming-request" (type (sub resource)))
    (export "response-outparam" (type (sub resource)))))
  (alias export $types "incoming-request" (type $request))
  (alias export $types "response-outparam" (type $outparam))

  (core module $code
    (memory 1)
    (func $deeper (param i32) (result i32)
      (i32.add (call $deeper (local.get 0)) (i32.const 1)))
    (func (export "handle") (param i32 i32)
      (drop (memory.grow (i32.const 20000)))
      (drop (call $deeper (i32.const 0)))))
  (core instance $main (instantiate $code))
  (func $handle
    (param "request" (own $request)) (param "response-out" (own $outparam))
    (canon lift (core func $main "handle")))
  (instance $handler (export "handle" (func $handle)))
  (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))
