;; Dies some calls deep, and keeps the names of its functions: what the log
;; shows of a guest that was not stripped.
(component
  (import "wasi:http/types@0.2.0" (instance $types
    (export "incoming-request" (type (sub resource)))
    (export "response-outparam" (type (sub resource)))))
  (alias export $types "incoming-request" (type $request))
  (alias export $types "response-outparam" (type $outparam))

  (core module $kettle
    (func $boil_over unreachable)
    (func $heat_up (param $degrees i32)
      (if (i32.eqz (local.get $degrees)) (then (call $boil_over)))
      (call $heat_up (i32.sub (local.get $degrees) (i32.const 1))))
    (func $take_order (export "handle") (param i32 i32)
      (call $heat_up (i32.const 1))))
  (core instance $main (instantiate $kettle))
  (func $handle
    (param "request" (own $request)) (param "response-out" (own $outparam))
    (canon lift (core func $main "handle")))
  (instance $handler (export "handle" (func $handle)))
  (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))
