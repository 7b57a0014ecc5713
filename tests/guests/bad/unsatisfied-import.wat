;; A handler that wants an interface no server of wasi:http has to have.
;; Returns without answering.
(component
  (import "wasi:http/types@0.2.0" (instance $types
    (export "incoming-request" (type (sub resource)))
    (export "response-outparam" (type (sub resource)))))
  (import "wasi:blobstore/blobstore@0.2.0-draft" (instance $store
    (export "bucket" (type (sub resource)))))
  (alias export $store "bucket" (type $bucket))
  (alias export $types "incoming-request" (type $request))
  (alias export $types "response-outparam" (type $outparam))

  (core module $code
    (import "store" "drop" (func (param i32)))
    (func (export "handle") (param i32 i32)))
  (core func $drop (canon resource.drop $bucket))
  (core instance $main (instantiate $code
    (with "store" (instance (export "drop" (func $drop))))))
  (func $handle
    (param "request" (own $request)) (param "response-out" (own $outparam))
    (canon lift (core func $main "handle")))
  (instance $handler (export "handle" (func $handle)))
  (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))
