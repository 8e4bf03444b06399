"""stand-in until merged"""
from jaxpaged.errors import JaxPagedError, RequestError
class AuthenticationError(JaxPagedError): retry_after_s=None
class RateLimitedError(JaxPagedError): retry_after_s=1.0
class QueueFullError(JaxPagedError): retry_after_s=1.0
class DeadlineError(JaxPagedError): retry_after_s=None
class NotReadyError(JaxPagedError): retry_after_s=1.0
class ModelNotFoundError(RequestError): pass
