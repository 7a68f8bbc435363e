"""Submits a job to a cvxq coordinator and follows it to its end, with nothing but the published protocol.

    pip install grpcio grpcio-tools googleapis-common-protos
    python -m grpc_tools.protoc -I proto -I third_party/googleapis --python_out=gen --grpc_python_out=gen \
        proto/cvxq/v1/resources.proto proto/cvxq/v1/quantization_service.proto third_party/googleapis/google/longrunning/operations.proto
    PYTHONPATH=gen python examples/python/submit.py /models/llama /models/llama-3bit --bits 3

Errors carry a google.rpc.Status whose ErrorInfo has a reason (docs/service.md).
"""
import argparse
import sys
import time
import uuid

import grpc
from cvxq.v1 import quantization_service_pb2 as service
from cvxq.v1 import quantization_service_pb2_grpc as service_grpc
from cvxq.v1 import resources_pb2 as resources
from google.rpc import error_details_pb2, status_pb2

State = resources.QuantizeModelJob.State


def reason_of(error):
    """The reason of an RPC's error, or an empty string."""
    for key, value in error.trailing_metadata() or ():
        if key != "grpc-status-details-bin":
            continue
        for detail in status_pb2.Status.FromString(value).details:
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info):
                return info.reason
    return ""


def create(stub, arguments):
    """Makes the job and gives its name. The request id makes it safe to send again."""
    request = service.CreateQuantizeModelJobRequest(
        parent=f"projects/{arguments.project}",
        request_id=str(uuid.uuid4()),
        quantize_model_job=resources.QuantizeModelJob(
            source=resources.ModelSource(uri=arguments.model),
            output=resources.OutputTarget(uri=arguments.output),
            spec=resources.QuantizeSpec(
                bits=arguments.bits,
                calibration=resources.CalibrationSpec(
                    samples=arguments.samples, seq_len=arguments.seq_len
                ),
            ),
        ),
    )
    while True:
        try:
            operation = stub.CreateQuantizeModelJob(request, timeout=30)
            metadata = resources.JobMetadata()
            operation.metadata.Unpack(metadata)
            return metadata.job
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise
            time.sleep(1)


def watch(stub, name):
    """Tells what happens, once each and in order, also where the coordinator is started again."""
    revision = 0
    while True:
        request = service.WatchQuantizeModelJobRequest(name=name, after_revision=revision)
        try:
            for event in stub.WatchQuantizeModelJob(request):
                revision = event.revision
                if event.HasField("log"):
                    print("   ", event.log.text)
                if event.HasField("snapshot"):
                    progress = event.snapshot.progress
                    print(State.Name(event.snapshot.state), f"{progress.percent} %", progress.phase)
            return
        except grpc.RpcError as error:
            if reason_of(error) == "REVISION_COMPACTED":
                revision = 0
            elif error.code() == grpc.StatusCode.UNAVAILABLE:
                time.sleep(1)
            else:
                raise


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("output")
    parser.add_argument("--bits", type=float, required=True)
    parser.add_argument("--samples", type=int, default=0, help="calibration sequences")
    parser.add_argument("--seq-len", type=int, default=0, help="tokens of a sequence")
    parser.add_argument("--server", default="127.0.0.1:7700")
    parser.add_argument("--project", default="default")
    arguments = parser.parse_args()
    options = [("grpc.enable_http_proxy", 0), ("grpc.keepalive_time_ms", 30000)]
    with grpc.insecure_channel(arguments.server, options=options) as channel:
        stub = service_grpc.QuantizationServiceStub(channel)
        try:
            name = create(stub, arguments)
            print(name)
            watch(stub, name)
            job = stub.GetQuantizeModelJob(service.GetQuantizeModelJobRequest(name=name), timeout=30)
        except grpc.RpcError as error:
            sys.exit(f"{error.code().name} {reason_of(error)}: {error.details()}")
    if job.state != State.SUCCEEDED:
        sys.exit(f"{State.Name(job.state)}: {job.error.message}")
    print(f"{job.result.bits_per_weight:.4f} bits a weight, {job.result.file_bytes} bytes in {job.result.uri}")


if __name__ == "__main__":
    main()
